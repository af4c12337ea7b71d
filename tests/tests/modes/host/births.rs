//! Containers whose first act is to send, and whose second is to end.

use anyhow::Result;
use dtm_tests::{
    far::{Far, UDP, Version, udp_count},
    lanes::Lanes,
    scene::{PATIENCE, Scene},
    tally::Tally,
};
use xtask::host::{CgroupWorld, EngineKind, EngineOptions, eventually};

use super::stage::{datagrams, each_has_moved, labels};
use crate::facts::{SENT_BYTES, agree, sent};

/// Containers that are born and end beside each other.
const LANES: Lanes = Lanes { count: 5, lives: 10 };
const DATAGRAMS: u64 = 100;
const SIZE: u64 = 500;

/// Not one datagram of fifty containers is missed, and each is its own container's.
pub(super) fn fifty_first_datagrams(kind: EngineKind, world: CgroupWorld) -> Result<()> {
    let mut scene = Scene::in_world(world, EngineOptions::new(kind))?;
    scene.start_dtm(&[])?;
    let far = Far::new(scene.host(), 1)?;
    let arrived = || udp_count(far.network(), "InDatagrams");
    let before = arrived()?;
    let (to, count, size) = (
        far.port(Version::V4, UDP),
        DATAGRAMS.to_string(),
        SIZE.to_string(),
    );
    let names = LANES.run(&scene, "host", &["traffic", "udp-send", &to, &count, &size])?;
    // So many the one outside has received: they all were sent.
    agree("arrived", arrived()? - before, LANES.total() * DATAGRAMS)?;
    let truth = sent(datagrams(Version::V4, DATAGRAMS, SIZE));
    for name in &names {
        eventually(PATIENCE, &format!("the series of {name}"), || {
            Ok(scene.samples()?.find(SENT_BYTES, &labels(name))?.map(drop))
        })?;
    }
    let samples = scene.samples()?;
    each_has_moved(&samples, names, truth)?;
    let sum = [("network", "host")];
    let of = |unit: &str| samples.sum(&format!("dtm_network_containers_transmit_{unit}_total"), &sum);
    let Tally { packets, bytes, .. } = datagrams(Version::V4, LANES.total() * DATAGRAMS, SIZE);
    agree(
        "the network's sums",
        (of("packets"), of("bytes")),
        (packets, bytes),
    )
}
