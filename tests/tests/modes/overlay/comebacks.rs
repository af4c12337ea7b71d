//! What is found again on an overlay network.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{far::UDP, scene::PATIENCE};
use xtask::host::eventually;

use super::stage::{Node, places, start};
use crate::{
    facts::{agree, only_these_series},
    places::{all_exact, during, read},
};

/// Containers that ran before dtm did: those it has known in another life, and one that it has not.
pub(super) fn dtm_comes_back(node: &mut Node, other: &Node) -> Result<()> {
    node.scene.stop_dtm()?;
    start(&node.scene, "unseen", &[])?;
    node.scene.start_dtm(&[])?;
    let (unseen, unseen_out) = places(&node.scene, "unseen")?;
    let mut all = node.places();
    for place in &all {
        place.wait_shown(&node.scene)?;
    }
    all.extend([&unseen, &unseen_out]);
    let there = other.port(&other.overlay[0], UDP)?;
    let readings = during(&node.scene, &all, || {
        node.send(&unseen, &there, 110, 700)?;
        other.send(&other.overlay[0], &node.port(&unseen, UDP)?, 90, 600)?;
        node.send(&node.overlay[0], &there, 70, 500)
    })?;
    all_exact(&all, &readings)?;
    let moved = readings[4].kernel;
    ensure!(
        moved.receive.packets >= 90 && moved.transmit.packets >= 110,
        "not everything passed: {moved:?}"
    );
    let names: Vec<_> = all.iter().map(|place| place.names()).collect();
    only_these_series(&node.scene, &names)
}

/// An engine that was killed makes the network's namespace anew for the container that it had ended.
pub(super) fn the_engine_comes_back(node: &mut Node, other: &Node) -> Result<()> {
    let name = "again";
    start(&node.scene, name, &[])?;
    let (first, _out) = places(&node.scene, name)?;
    let there = other.port(&other.overlay[0], UDP)?;
    node.send(&first, &there, 100, 500)?;
    let before = read(&node.scene, &[&first])?[0];
    node.scene.engine.kill()?;
    node.scene.engine.start_again()?;
    let scene = &node.scene;
    eventually(PATIENCE, "the Swarm takes it again", || {
        // Until the engine has joined the others it knows of no such network.
        Ok(scene.engine.docker(["start", name]).ok())
    })?;
    // The engine may still be making the network: what is sent meanwhile goes another way.
    let (address, _port) = there.rsplit_once(':').context("an address and a port")?;
    eventually(PATIENCE, "it reaches the other node again", || {
        Ok(scene.exec(name, &["ping", "-c", "1", "-W", "1", address]).ok())
    })?;
    let (second, _out) = places(scene, name)?;
    agree("its interface", &second.interface, &first.interface)?;
    node.send(&second, &there, 100, 500)?;
    let after = read(scene, &[&second])?[0];
    // What others send to all meanwhile is received by whoever is there; what it sends is its own.
    let both = before.kernel.transmit.bytes + after.kernel.transmit.bytes;
    agree("sent in both lives", after.ours.transmit.bytes, both)?;
    ensure!(
        after.kernel.transmit.packets >= 100,
        "not everything was sent: {after:?}"
    );
    Ok(())
}
