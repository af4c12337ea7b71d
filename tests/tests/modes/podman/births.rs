//! Containers whose first act is to send.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{Far, UDP, Version, udp_count},
    scene::{FRONT, PATIENCE, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use super::stage::{wait_on_host, watch};
use crate::{
    facts::{agree, sent},
    host::stage::{datagrams, each_has_moved},
    places::{Place, read},
};

const LIVES: u64 = 12;
const DATAGRAMS: u64 = 100;
const SIZE: u64 = 500;

/// Longer than what a namespace says of its own accord when its interface comes up: reports and solicitations of IPv6.
const WORD: u64 = 150;

struct Stage {
    // In the order in which they have to end.
    far: Far,
    scene: Scene,
}

impl Stage {
    fn new() -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(EngineKind::Podman))?;
        scene.silence_bridges()?;
        watch(&mut scene, &[])?;
        let far = Far::new(scene.host(), 1)?;
        Ok(Self { far, scene })
    }

    /// Starts containers that send and then do what `afterwards` says, waits until everything has arrived, and returns
    /// their names.
    fn live(&self, kind: &str, network: &str, afterwards: &str) -> Result<Vec<String>> {
        let arrived = || udp_count(self.far.network(), "InDatagrams");
        let before = arrived()?;
        let to = self.far.port(Version::V4, UDP);
        let script = format!("traffic udp-send {to} {DATAGRAMS} {SIZE}; {afterwards}");
        let names: Vec<_> = (0..LIVES).map(|number| format!("{kind}{number}")).collect();
        for name in &names {
            self.scene.run(name, network, &["sh", "-c", &script])?;
        }
        eventually(PATIENCE, "all have arrived", || {
            Ok((arrived()? - before >= LIVES * DATAGRAMS).then_some(()))
        })?;
        agree("arrived", arrived()? - before, LIVES * DATAGRAMS)?;
        Ok(names)
    }

    fn log(&self) -> String {
        self.scene
            .dtm()
            .map(dtm_tests::daemon::Dtm::log)
            .unwrap_or_default()
    }
}

/// Podman tells of a container after its group was made, and often after its last datagram: not one is missed.
pub(super) fn on_the_hosts_network() -> Result<()> {
    let stage = Stage::new()?;
    let names = stage.live("brief", "host", "exit")?;
    let truth = sent(datagrams(Version::V4, DATAGRAMS, SIZE));
    for name in &names {
        wait_on_host(&stage.scene, name).with_context(|| stage.log())?;
    }
    let samples = stage.scene.samples()?;
    each_has_moved(&samples, names, truth)
}

/// Podman sets an interface up in the moment in which it makes it. What the kernel then says in the new namespace by
/// itself may be sooner than any program; what the container's process sends is not: of whatever is missing no packet is
/// as long as a datagram.
pub(super) fn on_a_bridge() -> Result<()> {
    let stage = Stage::new()?;
    let names = stage.live("first", FRONT, "exec sleep 3600")?;
    for name in names {
        let place = Place::on_bridge(&stage.scene, &name, FRONT)?;
        place.wait_shown(&stage.scene).with_context(|| stage.log())?;
        let reading = read(&stage.scene, &[&place])?[0];
        let (ours, kernel) = (reading.ours.transmit, reading.kernel.transmit);
        ensure!(
            ours.packets <= kernel.packets && ours.bytes <= kernel.bytes,
            "{name} has too much: {reading:?}"
        );
        let (packets, bytes) = (kernel.packets - ours.packets, kernel.bytes - ours.bytes);
        ensure!(
            ours.packets >= DATAGRAMS && bytes <= packets * WORD,
            "{name} lacks {bytes} bytes in {packets} packets: {reading:?}"
        );
    }
    Ok(())
}
