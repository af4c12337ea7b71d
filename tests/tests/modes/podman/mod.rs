//! Podman, through its socket that answers as Docker's does: the same numbers under the same names.

mod births;
mod lives;
mod stage;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    scene::{FRONT, PATIENCE},
    tally::Ways,
};
use xtask::host::eventually;

use crate::{
    facts::{
        Fact, INFO, SENT_BYTES, UNCOVERED, agree, hold, holds, is_covered, only_these_series, received, sent,
    },
    fares::{BARRED, CLOSED, asks, loses},
    host::stage::{datagrams, labels},
    places::{all_exact, during},
};
use dtm_tests::far::Version;
use stage::{DB, DEFAULT, DEFAULT_BRIDGE, LONELY, MADE, ON_DEFAULT, ONE, ONE_PORT, SHARER, Stage, TWO, WEB};

const FACTS: &[Fact<Stage>] = &[
    ("bridges are exact", bridges_are_exact),
    ("networks have their names and bridges", networks_are_named),
    ("what is shared is the owner's", what_is_shared_is_the_owners),
    ("the host's network is each container's own", on_the_hosts_network),
    (
        "connections and drops are the kernel's",
        connections_and_drops_are_the_kernels,
    ),
    ("these series and no others", no_other_series),
    ("a rename ends one name and begins another", lives::renamed),
    ("stopped and started is one series", lives::stopped_and_started),
    ("a network is joined and left", lives::joined_and_left),
    ("a paused one is there", lives::paused),
    ("the end lingers", lives::ended),
    ("a pod is its infra container", lives::pod),
];

/// Datagrams among containers and to the host and beyond: packet for packet as the kernel counts them.
fn bridges_are_exact(stage: &Stage) -> Result<()> {
    let places = stage.places();
    let readings = during(&stage.scene, &places, || {
        stage.send_to(WEB, &stage.db, 200, 600)?;
        stage.send_to(DB, &stage.web, 100, 1)?;
        stage.send_to(DB, &stage.plain, 50, 1400)?;
        stage.send(ON_DEFAULT, &stage.far_udp(), 150, 700)?;
        stage
            .scene
            .exec(
                WEB,
                &[
                    "ping",
                    "-c",
                    "3",
                    "-i",
                    "0.1",
                    &stage.scene.address(DB, FRONT, false)?,
                ],
            )
            .map(drop)
    })?;
    all_exact(&places, &readings)?;
    let [web, db, plain] = [0, 1, 2].map(|at: usize| readings[at].kernel);
    ensure!(
        web.transmit.packets >= 200 && db.receive.packets >= 200 && plain.transmit.packets >= 150,
        "not everything passed: {readings:?}"
    );
    Ok(())
}

fn connections_and_drops_are_the_kernels(stage: &Stage) -> Result<()> {
    let at = |port: u16| Ok::<_, anyhow::Error>(format!("{}:{port}", stage.scene.address(DB, FRONT, false)?));
    let closed = at(CLOSED)?;
    asks(&stage.scene, WEB, (0, 4), || {
        stage
            .scene
            .exec(WEB, &["traffic", "tcp-refused", &closed, "4"])
            .map(drop)
    })?;
    let barred = at(BARRED)?;
    loses(&stage.scene, DB, || stage.send(WEB, &barred, 50, 300))
}

/// By the names that Podman has for them, its own one's too.
fn networks_are_named(stage: &Stage) -> Result<()> {
    let samples = stage.scene.samples()?;
    for network in MADE.into_iter().chain([DEFAULT]) {
        let of = [("network", network), ("driver", "bridge")];
        let sums = samples.all("dtm_network_containers_transmit_bytes_total", &of);
        agree(&format!("sums of {network}"), sums.count(), 1)?;
    }
    let links = stage.scene.host().links()?;
    let bridge = links.iter().find(|link| link.name == DEFAULT_BRIDGE);
    let bridge = bridge.context("Podman's own bridge")?.ifindex;
    let of = [("network", DEFAULT), ("driver", "bridge")];
    let shown = || -> Result<u64> {
        stage
            .scene
            .samples()?
            .get("dtm_network_bridge_transmit_bytes_total", &of)
    };
    // A bridge's device counts what comes out of it without its Ethernet header.
    let kernel = || -> Result<u64> {
        let counted = stage.scene.host().link_statistics(bridge)?;
        Ok(counted.rx_bytes + 14 * counted.rx_packets)
    };
    let both = || {
        eventually(PATIENCE, "the bridge rests", || {
            let before = kernel()?;
            let shown = shown()?;
            Ok((kernel()? == before).then_some((before, shown)))
        })
    };
    let before = both()?;
    stage.send(ON_DEFAULT, &stage.far_udp(), 100, 500)?;
    let after = both()?;
    let (kernel, counted) = (after.0 - before.0, after.1 - before.1);
    agree("what left through the bridge", counted, kernel)?;
    ensure!(
        counted >= 100 * (14 + 28 + 500),
        "not everything was sent: {counted}"
    );
    Ok(())
}

/// Whoever of the two sends: once, under the owner. The sharer is known and nobody says it is unseen.
fn what_is_shared_is_the_owners(stage: &Stage) -> Result<()> {
    let places = stage.places();
    let readings = during(&stage.scene, &places, || {
        stage.send_to(SHARER, &stage.db, 120, 500)
    })?;
    all_exact(&places, &readings)?;
    ensure!(
        readings[0].kernel.transmit.packets >= 120,
        "not sent: {readings:?}"
    );
    let owner = stage
        .scene
        .engine
        .docker(["inspect", "--format", "{{.Id}}", WEB])?;
    let of = [("name", SHARER), ("network_container_id", &owner)];
    eventually(PATIENCE, "the sharer is known", || {
        Ok((stage.scene.samples()?.all(INFO, &of).count() == 1).then_some(()))
    })?;
    let samples = stage.scene.samples()?;
    ensure!(is_covered(&samples, SHARER), "the sharer is said to be unseen");
    agree("its own", samples.all(SENT_BYTES, &[("name", SHARER)]).count(), 0)?;
    agree("of none", samples.all(SENT_BYTES, &[("name", LONELY)]).count(), 0)
}

/// Of two containers on the host's network each has what it sends and receives, by a sender that knows.
fn on_the_hosts_network(stage: &Stage) -> Result<()> {
    let group = stage.scene.engine.container_cgroup(ONE)?;
    let name = group
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    ensure!(name.starts_with("libpod-"), "its group is {}", group.display());
    let shown = |name: &str| -> Result<_> { Ways::shown(&stage.scene.samples()?, &labels(name)) };
    let before = [shown(ONE)?, shown(TWO)?];
    stage.send(ONE, &stage.far_udp(), 100, 500)?;
    stage.send(TWO, &stage.far_udp(), 200, 600)?;
    let to = Version::V4.port(&stage.far.near(Version::V4), ONE_PORT);
    stage.far.send(&to, 70, 800)?;
    let truth = [
        sent(datagrams(Version::V4, 100, 500)) + received(datagrams(Version::V4, 70, 800)),
        sent(datagrams(Version::V4, 200, 600)),
    ];
    let grown = eventually(PATIENCE, "they are counted", || {
        let grown = [shown(ONE)? - before[0], shown(TWO)? - before[1]];
        let all = grown[0].receive.packets >= 70 && grown[1].transmit.packets >= 200;
        Ok(all.then_some(grown))
    })?;
    agree("both containers", grown, truth)
}

fn no_other_series(stage: &Stage) -> Result<()> {
    only_these_series(&stage.scene, &stage.all_series())?;
    let samples = stage.scene.samples()?;
    agree("unseen", samples.all(UNCOVERED, &[]).count(), 0)?;
    // Podman's own words are no labels of its containers.
    let of = [("name", WEB), ("image", "docker.io/library/dtm-test:latest")];
    agree("its image", samples.all(INFO, &of).count(), 1)
}

/// A dtm that comes later finds everybody, and one that Podman's service left for a while goes on.
fn comes_later(stage: &mut Stage) -> Result<()> {
    stage.scene.stop_dtm()?;
    stage::watch(&mut stage.scene, &["--linger", "1s"])?;
    stage.wait_shown()?;
    bridges_are_exact(stage)?;
    on_the_hosts_network(stage)?;
    stage.scene.engine.stop()?;
    crate::comebacks::wait_docker(&stage.scene, 0)?;
    stage.scene.engine.start_again()?;
    crate::comebacks::wait_docker(&stage.scene, 1)?;
    bridges_are_exact(stage)?;
    on_the_hosts_network(stage)?;
    no_other_series(stage)?;
    lives::made_and_removed(stage)
}

#[test]
fn podmans_containers_are_counted_as_dockers() -> Result<()> {
    let mut stage = Stage::new()?;
    hold(&stage, FACTS)?;
    holds("dtm comes later", || comes_later(&mut stage))
}

#[test]
fn podmans_first_datagrams_are_counted_on_the_hosts_network() -> Result<()> {
    births::on_the_hosts_network()
}

#[test]
fn podmans_first_datagrams_are_counted_on_a_bridge() -> Result<()> {
    births::on_a_bridge()
}
