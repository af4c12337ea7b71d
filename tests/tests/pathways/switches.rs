//! Either view can be switched off: nothing of it is shown, and the other is what it is.

use anyhow::{Result, ensure};
use dtm_tests::{
    known::{DATAGRAM, port_of, send, start_receiver},
    paths::Paths,
    scene::{PATIENCE, SILENT, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

#[test]
fn either_view_can_be_switched_off_and_on_again() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::Old))?;
    scene.make_silent_network()?;
    scene.start_dtm(&[])?;
    for name in ["client", "server"] {
        start_receiver(&scene, name)?;
    }
    let to = port_of(&scene, "server", SILENT)?;
    for (flags, has_cells, has_pairs) in [
        (&[][..], true, true),
        (&["--no-scopes"], false, true),
        (&["--no-flows"], true, false),
        (&["--no-scopes", "--no-flows"], false, false),
        (&[], true, true),
    ] {
        scene.stop_dtm()?;
        scene.start_dtm(flags)?;
        scene.wait_named(&scene.endpoint("client", SILENT)?)?;
        let read = || -> Result<(u64, u64)> {
            let paths = Paths::of(&scene.samples()?).without_chatter();
            let cells: u64 = paths.cells.values().map(|amount| amount.bytes).sum();
            let pairs: u64 = paths.pairs.values().map(|amount| amount.bytes).sum();
            Ok((cells, pairs))
        };
        let before = read()?;
        send(&scene, "client", &to, 10)?;
        // Both ends are in the cells, one is in the matrix.
        let grown = (
            if has_cells { 20 * DATAGRAM } else { 0 },
            if has_pairs { 10 * DATAGRAM } else { 0 },
        );
        eventually(PATIENCE, &format!("{flags:?} counts what it should"), || {
            let (cells, pairs) = read()?;
            Ok(((cells - before.0, pairs - before.1) == grown).then_some(()))
        })?;
        let response = scene.dtm()?.metrics(&[])?;
        let text = response.text()?;
        let is_shown = |what: &str| text.lines().any(|line| line.starts_with(what));
        ensure!(
            is_shown("dtm_container_traffic_receive_bytes_total{") == has_cells,
            "{flags:?}"
        );
        ensure!(is_shown("dtm_flow_pairs_limit ") == has_pairs, "{flags:?}");
        ensure!(is_shown("dtm_flow_bytes_total{") == has_pairs, "{flags:?}");
    }
    Ok(())
}
