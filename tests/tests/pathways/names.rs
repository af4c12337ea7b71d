//! What becomes of pairs: renamed, made again, gone, and while no dtm runs.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    known::{LINGER, PAYLOAD, port_of, send, start_receiver},
    paths::{Amount, Paths, at_rest, sums_agree},
    scene::{PATIENCE, SILENT, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

const DATAGRAMS: u64 = 30;

fn sent(times: u64) -> Amount {
    Amount {
        packets: times * DATAGRAMS,
        bytes: times * DATAGRAMS * (14 + 20 + 8 + PAYLOAD),
    }
}

/// What a pair has moved; none where it has no series. What asks for addresses is another pair's.
fn pair(scene: &Scene, source: &str, destination: &str) -> Result<Option<Amount>> {
    let pair = (source.to_owned(), destination.to_owned());
    let paths = at_rest(scene, Paths::without_chatter)?;
    // ARP between the two is unicast, too, and neither TCP nor UDP.
    Ok(paths.pairs.get(&pair).copied())
}

fn holds(scene: &Scene, source: &str, destination: &str, expected: Amount) -> Result<()> {
    let what = format!("{source} -> {destination} has moved {expected:?}");
    eventually(PATIENCE, &what, || {
        Ok((pair(scene, source, destination)? == Some(expected)).then_some(()))
    })
}

#[test]
fn pairs_keep_their_names_and_go_on_under_them() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::Old))?;
    scene.make_silent_network()?;
    scene.start_dtm(&["--linger", LINGER])?;
    start_receiver(&scene, "client")?;
    start_receiver(&scene, "server")?;
    send(&scene, "client", &port_of(&scene, "server", SILENT)?, DATAGRAMS)?;
    holds(&scene, "client", "server", sent(1))?;

    // Renamed: the pair is what it was.
    scene.engine.docker(["rename", "server", "renamed"])?;
    send(&scene, "client", &port_of(&scene, "renamed", SILENT)?, DATAGRAMS)?;
    holds(&scene, "client", "server", sent(2))?;
    ensure!(pair(&scene, "client", "renamed")?.is_none());

    // Made again under the old name: the series goes on.
    scene.engine.docker(["rm", "--force", "renamed"])?;
    start_receiver(&scene, "server")?;
    send(&scene, "client", &port_of(&scene, "server", SILENT)?, DATAGRAMS)?;
    holds(&scene, "client", "server", sent(3))?;

    // A dtm that was killed has the next one go on, with what was sent meanwhile.
    scene.kill_dtm()?;
    send(&scene, "client", &port_of(&scene, "server", SILENT)?, DATAGRAMS)?;
    scene.start_dtm(&["--linger", LINGER])?;
    holds(&scene, "client", "server", sent(4))?;
    send(&scene, "client", &port_of(&scene, "server", SILENT)?, DATAGRAMS)?;
    holds(&scene, "client", "server", sent(5))?;
    sums_agree(&scene)?;

    // Gone for good: its series lingers, and its place is given back.
    let places = |scene: &Scene| scene.samples()?.get("dtm_flow_pairs", &[]);
    let taken = places(&scene)?;
    scene.engine.docker(["rm", "--force", "server", "client"])?;
    holds(&scene, "client", "server", sent(5))?;
    eventually(PATIENCE, "the pair is over", || {
        Ok(pair(&scene, "client", "server")?.is_none().then_some(()))
    })?;
    eventually(PATIENCE, "its place is free", || {
        Ok((places(&scene)? < taken).then_some(()))
    })
}

#[test]
fn what_has_no_place_is_counted_all_the_same() -> Result<()> {
    const CLIENTS: usize = 9;
    let mut scene = Scene::new(EngineOptions::new(EngineKind::Old))?;
    scene.make_silent_network()?;
    scene.start_dtm(&["--flows.max-pairs", "16"])?;
    start_receiver(&scene, "server")?;
    let to = port_of(&scene, "server", SILENT)?;
    // Each has a pair for what asks for addresses, and one with the server, who answers.
    for number in 0..CLIENTS {
        let name = format!("client{number}");
        start_receiver(&scene, &name)?;
        send(&scene, &name, &to, DATAGRAMS)?;
    }
    let samples = scene.samples()?;
    let (pairs, limit) = (
        samples.get("dtm_flow_pairs", &[])?,
        samples.get("dtm_flow_pairs_limit", &[])?,
    );
    ensure!(pairs == 16 && limit == 16, "{pairs} of {limit} places are taken");
    let paths = at_rest(&scene, |paths| paths)?;
    ensure!(paths.pairs.len() <= 17, "{paths:?}");
    let rest = paths.pairs.get(&("@other".to_owned(), "@other".to_owned()));
    ensure!(rest.context("the rest is there")?.packets > 0, "{paths:?}");
    let errors = [("reason", "flows_full")];
    let full = scene.samples()?.get("dtm_bpf_program_errors_total", &errors)?;
    ensure!(full > 0, "nothing says that there was no room");
    // Nobody but containers has said anything here, and each byte is counted where it was sent.
    let all = paths.matrix();
    let by_containers = scene
        .samples()?
        .sum("dtm_container_network_transmit_bytes_total", &[]);
    let from_others: u64 = paths
        .pairs
        .iter()
        .filter(|((source, destination), _amount)| source.starts_with('@') && !destination.starts_with('@'))
        .map(|(_pair, amount)| amount.bytes)
        .sum();
    ensure!(
        all.bytes - from_others == by_containers,
        "{by_containers} bytes were sent, {paths:?}"
    );
    sums_agree(&scene)
}
