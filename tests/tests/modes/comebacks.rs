//! What is found again, on the host's network and on macvlan's: engines that restart and crash, and containers that started
//! while dtm was away.

use anyhow::{Result, ensure};
use dtm_tests::{
    far::{Far, UDP, Version, traffic, wait_listening},
    networks::{introduce, make_macvlan},
    scene::{PATIENCE, Scene},
    tally::{Tally, Ways},
};
use xtask::host::{EngineKind, EngineOptions, Network, eventually};

use crate::{
    facts::{agree, holds, nothing, only_these_series, received, sent},
    host::stage::{datagrams, labels},
    macvlan::stage::BRIDGE,
    places::{Place, all_exact, bytes_exact, during, inside, process, read},
};

/// Where containers on the host's network receive: one that is there from the beginning, and one that comes later.
const OPEN: (&str, u16) = ("open", 6001);
const LATE: (&str, u16) = ("late", 6002);

/// Everything.
struct Stage {
    // In the order in which they have to end.
    far: Far,
    mac_far: Far,
    /// A container on the macvlan network, and its process.
    mac: Place,
    mac_process: u32,
    scene: Scene,
}

impl Stage {
    fn new(kind: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions {
            live_restore: true,
            ..EngineOptions::new(kind)
        })?;
        scene.start_dtm(&[])?;
        let (far, mac_far) = (Far::new(scene.host(), 1)?, Far::new(scene.host(), 2)?);
        make_macvlan(&scene, &mac_far, BRIDGE, "bridge")?;
        open(&scene, OPEN)?;
        let mac = on_macvlan(&scene, &mac_far, "mac")?;
        wait_open(&scene, OPEN)?;
        mac.wait_shown(&scene)?;
        let stage = Self {
            far,
            mac_far,
            mac_process: process(&scene, "mac")?,
            mac,
            scene,
        };
        stage.goes_on("at first")?;
        Ok(stage)
    }

    fn own(&self, (name, _port): (&str, u16)) -> Result<Ways<Tally>> {
        Ways::shown(&self.scene.samples()?, &labels(name))
    }

    /// Sends datagrams to a container on the host's network, and holds dtm to them.
    fn receives(&self, listener: (&str, u16), datagrams_sent: u64) -> Result<()> {
        let before = self.own(listener)?;
        let to = Version::V4.port(&self.far.near(Version::V4), listener.1);
        self.far.send(&to, datagrams_sent, 400)?;
        let truth = received(datagrams(Version::V4, datagrams_sent, 400));
        let grown = eventually(PATIENCE, "they are counted", || {
            let grown = self.own(listener)? - before;
            Ok((grown.receive.packets >= datagrams_sent).then_some(grown))
        })?;
        agree(listener.0, grown, truth)
    }

    fn goes_on(&self, when: &str) -> Result<()> {
        holds(when, || self.is_exact())
    }

    /// Holds both modes to what they move, without an engine's help: it may be away.
    fn is_exact(&self) -> Result<()> {
        self.receives(OPEN, 100)?;
        let far = self.mac_far.port(Version::V4, UDP);
        let readings = during(&self.scene, &[&self.mac], || {
            let send = ["udp-send", &far, "80", "600"];
            let network = Network::of_process(self.mac_process)?;
            network.run(traffic()?, send).map(drop)
        })?;
        all_exact(&[&self.mac], &readings)?;
        let moved = readings[0].kernel.transmit;
        ensure!(moved.packets >= 80, "not everything was sent: {moved:?}");
        // Since its birth.
        bytes_exact(&[&self.mac], &read(&self.scene, &[&self.mac])?)
    }
}

/// Starts a container on the host's network.
fn open(scene: &Scene, (name, port): (&str, u16)) -> Result<()> {
    scene.run(name, "host", &["traffic", "udp-receive", &port.to_string()])
}

/// Waits until it receives, and has its series.
fn wait_open(scene: &Scene, (name, port): (&str, u16)) -> Result<()> {
    wait_listening(&scene.host().network()?, port)?;
    eventually(PATIENCE, &format!("the series of {name}"), || {
        Ok(Ways::shown(&scene.samples()?, &labels(name)).ok())
    })
    .map(drop)
}

fn on_macvlan(scene: &Scene, far: &Far, name: &str) -> Result<Place> {
    scene.run(name, BRIDGE, &["traffic", "udp-receive", &UDP.to_string()])?;
    let place = Place::of_device(scene, name, BRIDGE)?;
    introduce(scene, far, name, BRIDGE)?;
    wait_listening(&inside(scene, name)?, UDP)?;
    Ok(place)
}

/// Waits until dtm says that Docker answers, or that it does not.
pub(crate) fn wait_docker(scene: &Scene, up: u64) -> Result<()> {
    eventually(PATIENCE, &format!("dtm_docker_up is {up}"), || {
        Ok((scene.samples()?.get("dtm_docker_up", &[])? == up).then_some(()))
    })
}

fn everything_is_found_again(kind: EngineKind) -> Result<()> {
    let mut stage = Stage::new(kind)?;
    stage.scene.engine.stop()?;
    wait_docker(&stage.scene, 0)?;
    stage.goes_on("while the engine is away")?;
    stage.scene.engine.start_again()?;
    wait_docker(&stage.scene, 1)?;
    stage.goes_on("after its restart")?;
    stage.scene.engine.kill()?;
    wait_docker(&stage.scene, 0)?;
    stage.goes_on("after its crash")?;
    stage.scene.engine.start_again()?;
    wait_docker(&stage.scene, 1)?;
    stage.goes_on("when it is there again")?;
    holds("born while dtm was away", || born_while_dtm_was_away(&mut stage))
}

/// Those that were known, those that were not, and one that lived and died unseen.
fn born_while_dtm_was_away(stage: &mut Stage) -> Result<()> {
    stage.scene.stop_dtm()?;
    open(&stage.scene, LATE)?;
    let late_mac = on_macvlan(&stage.scene, &stage.mac_far, "late-mac")?;
    let far = stage.far.port(Version::V4, UDP);
    stage.scene.run("missed", "host", &["sleep", "3600"])?;
    let send = ["traffic", "udp-send", &far, "50", "400"];
    stage.scene.exec("missed", &send)?;
    stage.scene.engine.docker(["rm", "--force", "missed"])?;
    stage.scene.start_dtm(&[])?;
    for listener in [OPEN, LATE] {
        wait_open(&stage.scene, listener)?;
    }
    // A socket that was there before dtm, and one that comes after.
    for listener in [OPEN, LATE] {
        stage.receives(listener, 70)?;
    }
    let before = [stage.own(OPEN)?, stage.own(LATE)?];
    stage.scene.exec(LATE.0, &send)?;
    nothing("of the other container", stage.own(OPEN)? - before[0])?;
    agree(
        "of its own",
        stage.own(LATE)? - before[1],
        sent(datagrams(Version::V4, 50, 400)),
    )?;

    let places = [&stage.mac, &late_mac];
    for place in places {
        place.wait_shown(&stage.scene)?;
    }
    let far = stage.mac_far.port(Version::V4, UDP);
    let readings = during(&stage.scene, &places, || {
        for (number, place) in places.iter().enumerate() {
            let datagrams = (60 * (number + 1)).to_string();
            let send = ["udp-send", &far, &datagrams, "600"];
            inside(&stage.scene, &place.container)?.run(traffic()?, send)?;
        }
        Ok(())
    })?;
    all_exact(&places, &readings)?;
    ensure!(
        readings[0].kernel.transmit.packets >= 60 && readings[1].kernel.transmit.packets >= 120,
        "not everything was sent: {readings:?}"
    );
    only_these_series(
        &stage.scene,
        &[
            stage.mac.names(),
            late_mac.names(),
            [OPEN.0, "host", ""],
            [LATE.0, "host", ""],
        ],
    )
}

#[test]
fn everything_is_found_again_on_the_old_engine() -> Result<()> {
    everything_is_found_again(EngineKind::Old)
}

#[test]
fn everything_is_found_again_on_the_current_engine() -> Result<()> {
    everything_is_found_again(EngineKind::Current)
}
