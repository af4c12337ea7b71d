//! How series live where Podman tells of it: it tells late, and of networks not at all.

use std::time::Duration;

use anyhow::{Result, ensure};
use dtm_tests::{
    far::{UDP, wait_listening},
    scene::{BACK, FRONT, IMAGE, PATIENCE},
};
use xtask::host::eventually;

use super::stage::{DB, Stage, TWO};
use crate::{
    facts::{INFO, RECEIVED_BYTES, SENT_BYTES, agree},
    places::{Place, all_exact, during, inside, read},
};

/// How long it takes at most until a removed network is missed and has lingered for a second, and somebody looks.
const UNTOLD: Duration = Duration::from_secs(45);
const MORTAL: &str = "mortal";
const SENDS: [&str; 2] = ["sleep", "3600"];
/// On a network, and without IPv6's words of its own accord.
const QUIET: [&str; 4] = ["--network", FRONT, "--sysctl", "net.ipv6.conf.all.disable_ipv6=1"];

/// The old name's series end at once, the new name's go on at the same value.
pub(super) fn renamed(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    scene.run_with("before", &QUIET, &SENDS)?;
    let before = Place::on_bridge(scene, "before", FRONT)?;
    before.wait_shown(scene)?;
    stage.send_to("before", &stage.db, 30, 300)?;
    let past = read(scene, &[&before])?[0].ours.transmit.bytes;
    scene.engine.docker(["rename", "before", "after"])?;
    let after = Place::on_bridge(scene, "after", FRONT)?;
    after.wait_shown(scene)?;
    let samples = scene.samples()?;
    agree(
        "of the old name",
        samples.all(SENT_BYTES, &before.labels()).count(),
        0,
    )?;
    let now = read(scene, &[&after])?[0].ours.transmit.bytes;
    ensure!(now >= past, "{past} under the old name, {now} under the new one");
    let readings = during(scene, &[&after], || stage.send_to("after", &stage.db, 30, 300))?;
    all_exact(&[&after], &readings)?;
    scene.engine.docker(["rm", "--force", "after"]).map(drop)
}

/// The interface of its second life adds to that of its first.
pub(super) fn stopped_and_started(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    scene.run_with(MORTAL, &QUIET, &SENDS)?;
    let first = Place::on_bridge(scene, MORTAL, FRONT)?;
    first.wait_shown(scene)?;
    stage.send_to(MORTAL, &stage.db, 40, 400)?;
    let past = read(scene, &[&first])?[0].ours.transmit.bytes;
    scene.engine.docker(["stop", "--time", "0", MORTAL])?;
    eventually(PATIENCE, "its gauges have gone", || {
        let left = scene.samples()?.all(INFO, &[("name", MORTAL)]).count();
        Ok((left == 0).then_some(()))
    })?;
    let first_life = scene.samples()?.get(SENT_BYTES, &first.labels())?;
    ensure!(first_life >= past, "{past} while it ran, {first_life} afterwards");
    scene.engine.docker(["start", MORTAL])?;
    let second = Place::on_bridge(scene, MORTAL, FRONT)?;
    eventually(PATIENCE, "it runs again", || {
        let known = scene.samples()?.all(INFO, &[("name", MORTAL)]).count();
        Ok((known == 1).then_some(()))
    })?;
    let readings = during(scene, &[&second], || stage.send_to(MORTAL, &stage.db, 50, 500))?;
    all_exact(&[&second], &readings)?;
    let series = scene.samples()?.all(SENT_BYTES, &[("name", MORTAL)]).count();
    agree("series over both lives", series, 1)?;
    let whole = read(scene, &[&second])?[0];
    let both_lives =
        first_life + readings[0].kernel.transmit.bytes..=first_life + whole.kernel.transmit.bytes;
    ensure!(
        both_lives.contains(&whole.ours.transmit.bytes),
        "{whole:?} after a first life of {first_life}"
    );
    scene.engine.docker(["rm", "--force", MORTAL]).map(drop)
}

/// A second interface comes and goes with a series of its own, which stays.
pub(super) fn joined_and_left(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    scene.run("hub", FRONT, &SENDS)?;
    scene.run("leaf", BACK, &["traffic", "udp-receive", &UDP.to_string()])?;
    let leaf = Place::on_bridge(scene, "leaf", BACK)?;
    leaf.wait_shown(scene)?;
    wait_listening(&inside(scene, "leaf")?, UDP)?;
    scene.engine.docker(["network", "connect", BACK, "hub"])?;
    let second = Place::on_bridge(scene, "hub", BACK)?;
    second.wait_shown(scene)?;
    let places = [&second, &leaf];
    let readings = during(scene, &places, || stage.send_to("hub", &leaf, 60, 600))?;
    all_exact(&places, &readings)?;
    ensure!(
        readings[0].kernel.transmit.packets >= 60,
        "not sent: {readings:?}"
    );
    let before = scene.samples()?.get(SENT_BYTES, &second.labels())?;
    scene.engine.docker(["network", "disconnect", BACK, "hub"])?;
    eventually(PATIENCE, "the interface is gone", || {
        let left = scene.engine.container_links("hub")?;
        Ok((left.len() == 1).then_some(()))
    })?;
    let after = scene.samples()?.get(SENT_BYTES, &second.labels())?;
    ensure!(after >= before, "{before} while it was there, {after} afterwards");
    scene.engine.docker(["rm", "--force", "hub", "leaf"])?;
    let last = scene.samples()?.get(SENT_BYTES, &second.labels())?;
    agree("what stays of it", last, after)
}

/// Of a network that nobody told of the name is there with the first container on it; the network goes from what is
/// known without a word either.
pub(super) fn made_and_removed(stage: &Stage) -> Result<()> {
    const LATER: &str = "later";
    let scene = &stage.scene;
    scene.engine.docker(["network", "create", LATER])?;
    scene.run("on-later", LATER, &SENDS)?;
    let place = Place::on_bridge(scene, "on-later", LATER)?;
    place.wait_shown(scene)?;
    scene.engine.docker(["rm", "--force", "on-later"])?;
    scene.engine.docker(["network", "rm", LATER])?;
    let of = [("network", LATER)];
    eventually(UNTOLD, "nothing is known of it", || {
        let left = scene
            .samples()?
            .all("dtm_network_containers_transmit_bytes_total", &of)
            .count();
        Ok((left == 0).then_some(()))
    })
}

/// Its counters stay, and so does what is known of it.
pub(super) fn paused(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    scene.engine.docker(["pause", TWO])?;
    let paused = [("state", "paused")];
    eventually(PATIENCE, "one is paused", || {
        Ok((scene.samples()?.get("dtm_containers", &paused)? == 1).then_some(()))
    })?;
    agree("known", scene.samples()?.all(INFO, &[("name", TWO)]).count(), 1)?;
    scene.engine.docker(["unpause", TWO])?;
    eventually(PATIENCE, "none is paused", || {
        Ok((scene.samples()?.get("dtm_containers", &paused)? == 0).then_some(()))
    })
}

/// One that sends and ends, and is removed by Podman at once: its totals are there afterwards.
pub(super) fn ended(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    let address = scene.address(DB, FRONT, false)?;
    let to = format!("{address}:{UDP}");
    let script = format!("traffic udp-send {to} 80 800; sleep 1");
    let received = || scene.samples()?.get(RECEIVED_BYTES, &stage.db.labels());
    let before = received()?;
    let run = ["run", "--rm", "--name", "brief", "--network", FRONT, IMAGE];
    scene.engine.docker(run.iter().chain(&["sh", "-c", &script]))?;
    let of = [("name", "brief"), ("network", FRONT)];
    let sent: u64 = eventually(PATIENCE, "its series", || {
        let known = scene.samples()?.all(INFO, &of[..1]).count();
        let sent = scene.samples()?.find(SENT_BYTES, &of)?;
        Ok(sent.filter(|_| known == 0))
    })?;
    let least = 80 * (14 + 28 + 800);
    ensure!(sent >= least, "{sent} of {least}");
    let arrived = received()? - before;
    ensure!(arrived >= least, "{arrived} of {least}");
    Ok(())
}

/// What a pod's containers move is that of the container that holds the pod's network.
pub(super) fn pod(stage: &Stage) -> Result<()> {
    const INFRA: &str = "pod-infra";
    let scene = &stage.scene;
    let infra = ["--infra-image", IMAGE, "--infra-command", "sleep 3600"];
    let create = [
        "pod",
        "create",
        "--share-parent=false",
        "--name",
        "pod",
        "--infra-name",
        INFRA,
        "--network",
        FRONT,
    ];
    scene.engine.podman(&[&create[..], &infra].concat())?;
    scene.engine.podman(&[
        "run",
        "--detach",
        "--pids-limit=-1",
        "--pod",
        "pod",
        "--name",
        "member",
        IMAGE,
        "sleep",
        "3600",
    ])?;
    let place = Place::on_bridge(scene, INFRA, FRONT)?;
    place.wait_shown(scene)?;
    let readings = during(scene, &[&place], || stage.send_to("member", &stage.db, 60, 600))?;
    all_exact(&[&place], &readings)?;
    ensure!(
        readings[0].kernel.transmit.packets >= 60,
        "not sent: {readings:?}"
    );
    let own = scene.samples()?.all(SENT_BYTES, &[("name", "member")]).count();
    agree("the member's own", own, 0)?;
    scene
        .engine
        .podman(&["pod", "rm", "--force", "--time=0", "pod"])
        .map(drop)
}
