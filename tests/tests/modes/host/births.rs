//! Containers whose first act is to send, and whose second is to end.

use anyhow::Result;
use dtm_tests::{
    far::{Far, UDP, Version, udp_count},
    scene::{IMAGE, PATIENCE, Scene},
    tally::{Tally, Ways},
};
use xtask::host::{CgroupWorld, EngineKind, EngineOptions, eventually};

use super::stage::{datagrams, labels};
use crate::facts::{SENT_BYTES, agree, sent};

/// Lanes of containers that are born and end beside each other, and how many each has.
const LANES: u64 = 5;
const LIVES: u64 = 10;
const DATAGRAMS: u64 = 100;
const SIZE: u64 = 500;

/// Not one datagram of fifty containers is missed, and each is its own container's.
pub(super) fn fifty_first_datagrams(kind: EngineKind, world: CgroupWorld) -> Result<()> {
    let mut scene = Scene::in_world(world, EngineOptions::new(kind))?;
    scene.start_dtm(&[])?;
    let far = Far::new(scene.host(), 1)?;
    let arrived = || udp_count(far.network(), "InDatagrams");
    let before = arrived()?;
    let names = live_side_by_side(&scene, &far.port(Version::V4, UDP))?;
    // So many the one outside has received: they all were sent.
    agree("arrived", arrived()? - before, LANES * LIVES * DATAGRAMS)?;
    let truth = sent(datagrams(Version::V4, DATAGRAMS, SIZE));
    for name in &names {
        eventually(PATIENCE, &format!("the series of {name}"), || {
            Ok(scene.samples()?.find(SENT_BYTES, &labels(name))?.map(drop))
        })?;
    }
    let samples = scene.samples()?;
    let mut missed = Vec::new();
    for name in names {
        let shown = Ways::shown(&samples, &labels(&name))?;
        if shown != truth {
            missed.push((name, shown));
        }
    }
    agree("not as they were sent", missed, Vec::new())?;
    let sum = [("network", "host")];
    let of = |unit: &str| samples.sum(&format!("dtm_network_containers_transmit_{unit}_total"), &sum);
    let Tally { packets, bytes, .. } = datagrams(Version::V4, LANES * LIVES * DATAGRAMS, SIZE);
    agree(
        "the network's sums",
        (of("packets"), of("bytes")),
        (packets, bytes),
    )
}

/// Runs all lanes to their end and returns the names of who lived: every other lane leaves its containers behind.
fn live_side_by_side(scene: &Scene, to: &str) -> Result<Vec<String>> {
    let (count, size) = (DATAGRAMS.to_string(), SIZE.to_string());
    let name = |lane: u64, number: u64| format!("short{lane}-{number}");
    let live = |lane: u64, number: u64| {
        let name = name(lane, number);
        let run = ["run", "--name", &name, "--network", "host"];
        let remove = ["--rm"].into_iter().filter(|_| lane.is_multiple_of(2));
        let send = [IMAGE, "traffic", "udp-send", to, &count, &size];
        scene
            .engine
            .docker(run.into_iter().chain(remove).chain(send))
            .map(drop)
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let live = &live;
                scope.spawn(move || (0..LIVES).try_for_each(|number| live(lane, number)))
            })
            .collect();
        lanes.into_iter().try_for_each(|lane| {
            lane.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let all = (0..LANES).flat_map(|lane| (0..LIVES).map(move |number| name(lane, number)));
    Ok(all.collect())
}
