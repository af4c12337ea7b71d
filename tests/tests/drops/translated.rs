//! Packets that bear the container's address no longer, or not yet: only the connection knows whose they are.

use anyhow::Result;
use dtm_tests::{
    far::{Far, UDP, Version},
    rules::matched,
    scene::Scene,
};
use xtask::host::EngineKind;

use crate::stage::{loses, lost};

const NETWORK: &str = "translated";

/// A port of a rule's, on which nobody listens.
const DROPPED: u16 = 9995;

const PINGS: u64 = 25;

#[test]
fn drops_of_translated_packets_are_those_of_whose_connection_it_is() -> Result<()> {
    let mut scene = Scene::watched(EngineKind::newest()?, "auto")?;
    let subnets = ["--subnet", "172.30.7.0/24", "--subnet", "fd00:7:7::/64"];
    let create = ["network", "create", "--ipv6"].iter().chain(&subnets);
    scene.engine.docker(create.chain(&[NETWORK]))?;
    let far = Far::new(scene.host(), 1)?;
    let host = scene.host().network()?;
    scene.run("one", NETWORK, &["sleep", "3600"])?;
    scene.wait_named(&scene.endpoint("one", NETWORK)?)?;

    for (version, family) in [(Version::V4, "ip"), (Version::V6, "ip6")] {
        // The way there is known from here on.
        let to = far.port(version, UDP);
        scene.exec("one", &["traffic", "udp-send", &to, "1", "10"])?;
        // After the engine's own translation, at 100; the rule matches nothing but what it has translated.
        loses(&scene, &format!("what is sent by {family} as the host's"), || {
            let near = far.near(version);
            let rule = format!(
                "table inet sent_{family} {{ chain p {{ type filter hook postrouting priority 110; {family} saddr {near} udp dport {DROPPED} counter drop; }}; }}"
            );
            host.run("nft", [rule])?;
            let to = far.port(version, DROPPED);
            scene.exec("one", &["traffic", "udp-send", &to, "60", "400"])?;
            let truth = matched(&host, &format!("sent_{family}"))?;
            Ok(lost("one", "transmit", "netfilter_drop", truth))
        })?;
    }
    // After the connection is found, at -200, and before the address is the container's again, at -100.
    loses(&scene, "answers to the host's address", || {
        let near = far.near(Version::V4);
        let rule = format!(
            "table inet answered {{ chain p {{ type filter hook prerouting priority -150; ip daddr {near} icmp type echo-reply counter drop; }}; }}"
        );
        host.run("nft", [rule])?;
        let (count, to) = (PINGS.to_string(), far.address(Version::V4));
        let ping = ["ping", "-q", "-c", &count, "-i", "0.01", "-W", "1", &to];
        // It ends with an error, for nothing is answered.
        scene.exec("one", &ping).err();
        Ok(lost(
            "one",
            "receive",
            "netfilter_drop",
            matched(&host, "answered")?,
        ))
    })?;
    scene.stop_dtm()
}
