//! Networks that take more words to make than a bridge does.

use anyhow::{Context as _, Result};

use crate::{
    far::{Far, Version},
    scene::Scene,
};

/// Nobody tells all of the others of a new container.
const UNANNOUNCED: &str = "--opt=com.docker.network.advertise_addr_nmsgs=0";

/// Makes a Swarm of this one engine.
pub fn make_swarm(scene: &Scene, address: &str) -> Result<()> {
    let init = ["swarm", "init", "--advertise-addr", address];
    scene
        .engine
        .docker(init.iter().chain(&["--listen-addr", address]))
        .map(drop)
}

/// Makes an overlay network, which containers can be put on by hand.
pub fn make_overlay(scene: &Scene, name: &str) -> Result<()> {
    let create = ["network", "create", "--driver=overlay", "--attachable"];
    scene
        .engine
        .docker(create.iter().chain(&[UNANNOUNCED, name]))
        .map(drop)
}

/// Makes a macvlan network on top of the interface that leads to `far`.
pub fn make_macvlan(scene: &Scene, far: &Far, name: &str, mode: &str) -> Result<()> {
    let gateway = far.address(Version::V4);
    // The upper half: the host and the one outside have addresses in the lower.
    let (net, _host) = gateway.rsplit_once('.').context("an address of IPv4")?;
    let options = [
        "--driver=macvlan",
        &format!("--opt=parent={}", far.interface()),
        &format!("--opt=macvlan_mode={mode}"),
        &format!("--subnet={}", far.subnet()),
        &format!("--ip-range={net}.128/25"),
        &format!("--gateway={gateway}"),
        UNANNOUNCED,
    ];
    scene
        .engine
        .docker(["network", "create"].iter().chain(&options).chain(&[name]))
        .map(drop)
}

/// Tells who is outside a container's hardware address, for good: who had to ask would ask all.
pub fn introduce(scene: &Scene, far: &Far, container: &str, network: &str) -> Result<()> {
    let address = scene.address(container, network, false)?;
    let link = scene.engine.container_link(container, network)?;
    let known = ["neighbour", "replace", &address, "lladdr", &link.address];
    far.network()
        .run("ip", known.iter().chain(&["dev", "far0", "nud", "permanent"]))
        .map(drop)
}
