//! Containers with a device of their own: what is dropped in their namespace.

use anyhow::Result;
use dtm_tests::{
    far::{Far, UDP, Version},
    networks::{introduce, make_macvlan},
    rules::matched,
    scene::Scene,
};
use xtask::host::EngineKind;

use crate::stage::{loses, lost};

const NETWORK: &str = "mac";
const INSIDE: u16 = 9993;

#[test]
fn drops_in_a_container_of_a_macvlan_network_are_its_own() -> Result<()> {
    let mut scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.make_silent_network()?;
    let far = Far::new(scene.host(), 2)?;
    make_macvlan(&scene, &far, NETWORK, "bridge")?;
    scene.run("own", NETWORK, &["sleep", "3600"])?;
    scene.wait_named_on("own", NETWORK)?;
    introduce(&scene, &far, "own", NETWORK)?;
    let own = scene.engine.inside("own")?;
    let to = far.port(Version::V4, UDP);
    scene.exec("own", &["traffic", "udp-send", &to, "1", "10"])?;
    loses(&scene, "a rule in the container", || {
        let rule = format!(
            "table inet inside {{ chain i {{ type filter hook input priority 0; udp dport {INSIDE} counter drop; }}; }}"
        );
        own.run("nft", [rule])?;
        let address = scene.address("own", NETWORK, false)?;
        far.send(&format!("{address}:{INSIDE}"), 90, 400)?;
        Ok(lost("own", "receive", "netfilter_drop", matched(&own, "inside")?))
    })?;
    scene.stop_dtm()
}
