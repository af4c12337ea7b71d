//! What a container is called may change while it talks; whose its bytes are does not.

use anyhow::{Context as _, Result};
use dtm_tests::{
    known::{DATAGRAM, RECEIVED_BYTES, bursts, goes_on, has_sent, id_of, plain_stage, port_of, send},
    scene::{PATIENCE, SILENT, Scene},
};
use xtask::host::{EngineKind, eventually};

/// Each of ten datagrams.
const BURSTS: u64 = 150;

/// Renames, and holds the old name to being gone in the first scrape that shows the new one.
fn rename(scene: &Scene, old: &str, new: &str, id: &str) -> Result<()> {
    let value = |name: &str| -> Result<Option<u64>> {
        scene
            .samples()?
            .find(RECEIVED_BYTES, &[("name", name), ("container_id", id)])
    };
    let before = value(old)?.context("it has a series")?;
    scene.engine.docker(["rename", old, new])?;
    let (of_new, of_old) = eventually(PATIENCE, &format!("{new} is called so"), || {
        let samples = scene.samples()?;
        let of = |name| samples.find(RECEIVED_BYTES, &[("name", name), ("container_id", id)]);
        Ok(of(new)?.map(|value| (value, of(old))))
    })?;
    assert_eq!(of_old?, None, "{old} is gone at once");
    assert!(of_new >= before, "the value goes on");
    assert_eq!(
        scene
            .samples()?
            .all("dtm_container_info", &[("container_id", id)])
            .count(),
        1
    );
    Ok(())
}

fn a_series_goes_on_under_a_new_name(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    scene.run("other", SILENT, &["traffic", "udp-receive", "5002"])?;
    scene.run("sender", SILENT, &["sleep", "3600"])?;
    for name in ["other", "sender"] {
        scene.wait_named(&scene.endpoint(name, SILENT)?)?;
    }
    let ids = [id_of(&scene, "receiver")?, id_of(&scene, "other")?];
    let to = [
        port_of(&scene, "receiver", SILENT)?,
        port_of(&scene, "other", SILENT)?,
    ];
    let script = bursts(&[&to[0], &to[1]], BURSTS);
    let mut talk = scene
        .engine
        .docker_command(["exec", "sender", "sh", "-c", &script]);
    let mut talk = xtask::host::Running::spawn(&mut talk)?;
    rename(&scene, "receiver", "first", &ids[0])?;
    // Two containers swap their names: each is free only once the other has left it.
    rename(&scene, "first", "away", &ids[0])?;
    rename(&scene, "other", "first", &ids[1])?;
    rename(&scene, "away", "other", &ids[0])?;
    assert!(talk.try_wait()?.is_none(), "all of this was under traffic");
    assert!(talk.wait(PATIENCE)?.success());
    // The names are swapped, the bytes are not.
    for (id, name) in ids.iter().zip(["other", "first"]) {
        let (received, _sent) = goes_on(&scene, id, &scene.endpoint(name, SILENT)?, (0, 0))?;
        let beside = received - BURSTS * 10 * DATAGRAM;
        assert!(
            beside <= 42 * BURSTS,
            "{name} was sent {beside} bytes beside its datagrams"
        );
    }
    has_sent(&scene, &id_of(&scene, "sender")?, 2 * BURSTS * 10)?;
    watch.finish()
}

#[test]
fn a_series_goes_on_under_a_new_name_on_the_old_engine_with_clsact() -> Result<()> {
    a_series_goes_on_under_a_new_name(EngineKind::Old, "clsact")
}

#[test]
fn a_series_goes_on_under_a_new_name_on_the_current_engine_with_tcx() -> Result<()> {
    a_series_goes_on_under_a_new_name(EngineKind::Current, "tcx")
}

/// What a container sends from another's namespace is the other's, whatever that is called, and until it restarts: then
/// it has a namespace of its own, and its guest none that leads anywhere.
fn a_shared_namespace_is_its_makers(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    let to = port_of(&scene, "receiver", SILENT)?;
    scene.run("maker", SILENT, &["sleep", "3600"])?;
    scene.run("guest", "container:maker", &["sleep", "3600"])?;
    let (maker, guest) = (id_of(&scene, "maker")?, id_of(&scene, "guest")?);
    send(&scene, "guest", &to, 100)?;
    has_sent(&scene, &maker, 100)?;
    scene.engine.docker(["rename", "maker", "host"])?;
    send(&scene, "guest", &to, 100)?;
    has_sent(&scene, &maker, 200)?;
    let before = scene.kernel(&scene.endpoint("host", SILENT)?)?;
    scene.engine.docker(["restart", "--time", "0", "host"])?;
    let endpoint = scene.endpoint("host", SILENT)?;
    send(&scene, "host", &to, 100)?;
    has_sent(&scene, &maker, 300)?;
    goes_on(&scene, &maker, &endpoint, before)?;
    let lost = send(&scene, "guest", &to, 1);
    assert!(lost.is_err(), "its namespace has no interface any more");
    let samples = scene.samples()?;
    let of_guest = [("container_id", guest.as_str())];
    assert_eq!(samples.all(RECEIVED_BYTES, &of_guest).count(), 0);
    let shared = samples.all("dtm_container_info", &of_guest).next();
    let shared = shared.context("the guest lives")?.labels["network_container_id"].clone();
    assert!(shared.starts_with(&maker), "{shared} is not {maker}");
    watch.finish()
}

#[test]
fn a_shared_namespace_is_its_makers_on_the_old_engine_with_clsact() -> Result<()> {
    a_shared_namespace_is_its_makers(EngineKind::Old, "clsact")
}

#[test]
fn a_shared_namespace_is_its_makers_on_the_current_engine_with_tcx() -> Result<()> {
    a_shared_namespace_is_its_makers(EngineKind::Current, "tcx")
}
