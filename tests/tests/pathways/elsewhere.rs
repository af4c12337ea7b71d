//! Overlay and macvlan networks.

use anyhow::Result;
use dtm_tests::{
    far::{Far, UDP, Version, wait_listening},
    networks::{introduce, make_macvlan, make_overlay, make_swarm},
    paths::{
        Paths,
        Way::{Receive, Transmit},
        moves_of, sums_agree,
    },
    scene::Scene,
};
use xtask::host::{EngineKind, EngineOptions};

use crate::stage::{DATAGRAMS, SIZE, datagrams, send};

const NETWORK: (&str, &str) = ("network", "udp");
const INTERNET: (&str, &str) = ("internet", "udp");
const HOST: (&str, &str) = ("host", "udp");

struct Stage {
    // In the order in which they have to end.
    far: Far,
    mac_far: Far,
    scene: Scene,
}

impl Stage {
    fn new(kind: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(kind))?;
        scene.silence_bridges()?;
        scene.start_dtm(&[])?;
        let (far, mac_far) = (Far::new(scene.host(), 1)?, Far::new(scene.host(), 2)?);
        make_swarm(&scene, "127.0.0.1")?;
        make_overlay(&scene, "over")?;
        make_macvlan(&scene, &mac_far, "mac", "bridge")?;
        let receive = ["traffic", "udp-receive", &UDP.to_string()];
        for (name, network) in [("near", "over"), ("next", "over"), ("one", "mac"), ("two", "mac")] {
            scene.run(name, network, &receive)?;
            wait_listening(&scene.engine.inside(name)?, UDP)?;
            scene.wait_named_on(name, network)?;
        }
        for name in ["one", "two"] {
            introduce(&scene, &mac_far, name, "mac")?;
        }
        Ok(Self { far, mac_far, scene })
    }

    fn port(&self, container: &str, network: &str) -> Result<String> {
        Ok(format!(
            "{}:{UDP}",
            self.scene.address(container, network, false)?
        ))
    }

    fn moves(&self, what: &str, act: impl FnOnce() -> Result<()>, expected: &Paths) -> Result<()> {
        moves_of(&self.scene, what, act, expected, Paths::without_chatter)
    }
}

fn overlay_and_macvlan_move_their_own(kind: EngineKind) -> Result<()> {
    let stage = Stage::new(kind)?;
    let sent = datagrams(Version::V4);
    for (from, to, network) in [("near", "next", "over"), ("one", "two", "mac")] {
        let expected = Paths::default()
            .cell(from, Transmit, NETWORK, sent)
            .cell(to, Receive, NETWORK, sent)
            .pair(from, to, sent);
        let port = stage.port(to, network)?;
        stage.moves(from, || send(&stage.scene, from, &port), &expected)?;
    }
    // Out of the overlay it goes over the other interface; on a macvlan's link are also machines that Docker knows nothing of.
    let outside = stage.far.port(Version::V4, UDP);
    let neighbour = stage.mac_far.port(Version::V4, UDP);
    for (from, to) in [("near", &outside), ("one", &neighbour)] {
        let expected = Paths::default()
            .cell(from, Transmit, INTERNET, sent)
            .pair(from, "@internet", sent);
        stage.moves(from, || send(&stage.scene, from, to), &expected)?;
    }
    let expected = Paths::default()
        .cell("one", Receive, INTERNET, sent)
        .pair("@internet", "one", sent);
    let to = stage.port("one", "mac")?;
    stage.moves("to one", || stage.mac_far.send(&to, DATAGRAMS, SIZE), &expected)?;
    // An address of the host's on the same link, which no macvlan device reaches.
    let near = stage.mac_far.near(Version::V4);
    let known = ["neighbour", "replace", &near, "lladdr", "02:00:00:00:00:fe"];
    let place = ["dev", "eth0", "nud", "permanent"];
    let inside = stage.scene.engine.inside("one")?;
    inside.run("ip", known.iter().chain(&place))?;
    let expected = Paths::default()
        .cell("one", Transmit, HOST, sent)
        .pair("one", "@host", sent);
    let host = format!("{near}:{UDP}");
    stage.moves("to the host", || send(&stage.scene, "one", &host), &expected)?;
    sums_agree(&stage.scene)
}

#[test]
fn overlay_and_macvlan_move_their_own_on_the_old_engine() -> Result<()> {
    overlay_and_macvlan_move_their_own(EngineKind::Old)
}

#[test]
fn overlay_and_macvlan_move_their_own_on_the_current_engine() -> Result<()> {
    overlay_and_macvlan_move_their_own(EngineKind::Current)
}
