//! Fifty networks that a living container joins and leaves.

use anyhow::{Context as _, Result};
use dtm_tests::scene::Scene;
use xtask::host::EngineKind;

use crate::{
    churn::side_by_side,
    holdings::Holdings,
    watched::{self, RESIDENT},
};

const NETWORKS: usize = 50;
const DATAGRAMS: u64 = 20;

/// One network's life: made, joined, used, left, removed.
fn network(scene: &Scene, number: usize) -> Result<()> {
    let name = format!("passing{number}");
    let docker = |arguments: &[&str]| scene.engine.docker(arguments);
    docker(&["network", "create", &name])?;
    docker(&["network", "connect", &name, RESIDENT])?;
    let gateway = docker(&[
        "network",
        "inspect",
        "--format",
        "{{(index .IPAM.Config 0).Gateway}}",
        &name,
    ])?;
    let gateway = gateway.split('/').next().context("a gateway")?.to_owned();
    // One datagram each: a socket hears of the refusal at its second.
    let send = format!("for n in $(seq {DATAGRAMS}); do traffic udp-send {gateway}:9 1 100; done");
    scene.exec(RESIDENT, &["sh", "-c", &send])?;
    docker(&["network", "disconnect", &name, RESIDENT])?;
    docker(&["network", "rm", &name]).map(drop)
}

fn nothing_is_left_of_fifty_networks(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let scene = watched::scene(kind, attach_mode)?;
    let before = Holdings::at_rest(&scene)?;
    side_by_side(NETWORKS, |number| network(&scene, number))?;
    before.are_all_again(&scene)?;
    watched::stop_dtm(scene)
}

#[test]
fn nothing_is_left_of_fifty_networks_on_the_old_engine_with_clsact() -> Result<()> {
    nothing_is_left_of_fifty_networks(EngineKind::Old, "clsact")
}

#[test]
fn nothing_is_left_of_fifty_networks_on_the_current_engine_with_both() -> Result<()> {
    nothing_is_left_of_fifty_networks(EngineKind::Current, "auto")
}
