//! Two containers on the host's network, one that is not, and somebody outside of the host.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::Samples,
    far::{Far, UDP, Version, wait_listening},
    scene::{FRONT, PATIENCE, Scene},
    tally::{Tally, Ways},
};
use xtask::host::{CgroupWorld, EngineKind, EngineOptions, eventually};

use crate::facts::{SENT_BYTES, UNCOVERED, agree, is_covered};

/// Containers on the host's network, and where they receive.
pub(super) const ONE: Listener = Listener {
    name: "one",
    udp: 6001,
    tcp: 6101,
};
/// See [`ONE`].
pub(super) const TWO: Listener = Listener {
    name: "two",
    udp: 6002,
    tcp: 6102,
};
/// A container on a bridge network.
pub(super) const BRIDGED: &str = "bridged";

/// A container that receives. It shares its ports with the whole host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    pub(super) name: &'static str,
    pub(super) udp: u16,
    pub(super) tcp: u16,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Stage {
    // In the order in which they have to end.
    pub(super) far: Far,
    pub(super) scene: Scene,
}

impl Stage {
    /// An engine with its containers, all born under dtm's eyes.
    pub(super) fn new(kind: EngineKind, world: CgroupWorld) -> Result<Self> {
        let mut scene = Scene::in_world(world, EngineOptions::new(kind))?;
        scene.start_dtm(&[])?;
        let far = Far::new(scene.host(), 1)?;
        let stage = Self { far, scene };
        for listener in [ONE, TWO] {
            stage.start(listener, &["--network", "host"])?;
        }
        let receive = format!("exec traffic udp-receive {UDP}");
        stage.scene.run(BRIDGED, FRONT, &["sh", "-c", &receive])?;
        Ok(stage)
    }

    /// Starts a container that listens on the host's network, and waits until it does and is shown.
    pub(super) fn start(&self, listener: Listener, options: &[&str]) -> Result<()> {
        let Listener { name, udp, tcp } = listener;
        let receive = format!("traffic udp-receive {udp} & exec traffic tcp-receive {tcp}");
        self.scene.run_with(name, options, &["sh", "-c", &receive])?;
        let network = self.scene.host().network()?;
        for port in [udp, tcp] {
            wait_listening(&network, port)?;
        }
        self.wait_shown(name)
    }

    /// Waits until a container has its series.
    pub(super) fn wait_shown(&self, name: &str) -> Result<()> {
        eventually(PATIENCE, &format!("the series of {name}"), || {
            Ok(self.scene.samples()?.find(SENT_BYTES, &labels(name))?.map(drop))
        })
    }

    /// Has a container run `traffic`.
    pub(super) fn traffic(&self, container: &str, arguments: &[&str]) -> Result<()> {
        let command = ["exec", container, "traffic"];
        self.scene
            .engine
            .docker(command.iter().chain(arguments))
            .map(drop)
    }

    /// Has a container send datagrams.
    pub(super) fn send(&self, container: &str, to: &str, datagrams: u64, size: u64) -> Result<()> {
        let (datagrams, size) = (datagrams.to_string(), size.to_string());
        self.traffic(container, &["udp-send", to, &datagrams, &size])
    }

    /// Where a container receives datagrams from outside.
    pub(super) fn udp(&self, listener: Listener, version: Version) -> String {
        version.port(&self.far.near(version), listener.udp)
    }

    /// Where the one outside receives them.
    pub(super) fn far_udp(&self, version: Version) -> String {
        self.far.port(version, UDP)
    }

    /// What dtm shows of the containers' own, once it rests.
    fn rest<const N: usize>(&self, names: [&str; N]) -> Result<[Ways<Tally>; N]> {
        let mut last = None;
        eventually(PATIENCE, "the counters rest", || {
            let samples = self.scene.samples()?;
            let mut now = [Ways::default(); N];
            for (now, name) in now.iter_mut().zip(names) {
                *now = Ways::shown(&samples, &labels(name)).with_context(|| name.to_owned())?;
            }
            Ok((last.replace(now) == Some(now)).then_some(now))
        })
    }

    /// How much the containers' own counters grow meanwhile.
    pub(super) fn during<const N: usize>(
        &self,
        names: [&str; N],
        action: impl FnOnce() -> Result<()>,
    ) -> Result<[Ways<Tally>; N]> {
        let before = self.rest(names)?;
        action()?;
        let mut after = self.rest(names)?;
        for (after, before) in after.iter_mut().zip(before) {
            *after = *after - before;
        }
        Ok(after)
    }
}

/// The labels of a container's series on the host's network.
pub(crate) fn labels(name: &str) -> [(&str, &str); 3] {
    [("name", name), ("network", "host"), ("interface", "")]
}

/// Each of these containers on the host's network has moved exactly this.
pub(crate) fn each_has_moved(samples: &Samples, names: Vec<String>, truth: Ways<Tally>) -> Result<()> {
    let mut others = Vec::new();
    for name in names {
        let shown = Ways::shown(samples, &labels(&name))?;
        if shown != truth {
            others.push((name, shown));
        }
    }
    agree("not as they were sent", others, Vec::new())
}

/// Datagrams that all fit into a packet.
pub(crate) fn datagrams(version: Version, count: u64, size: u64) -> Tally {
    Tally::of(count, size + version.udp_headers())
}

/// Of the containers that are there, these two have such series and the others have none; nothing is unseen.
pub(super) fn nobody_else(stage: &Stage) -> Result<()> {
    let samples = stage.scene.samples()?;
    let living = [ONE.name, TWO.name, BRIDGED];
    let on_host = |name: &&str| samples.all(SENT_BYTES, &labels(name)).next().is_some();
    let have: Vec<_> = living.into_iter().filter(|name| on_host(name)).collect();
    agree(
        "who has series of the host's network",
        have,
        vec![ONE.name, TWO.name],
    )?;
    for name in living {
        ensure!(
            is_covered(&samples, name),
            "{name} is unknown, or said to be unseen"
        );
        let series = samples.all(SENT_BYTES, &[("name", name)]).count();
        agree(&format!("series of {name}"), series, 1)?;
    }
    agree("unseen", samples.all(UNCOVERED, &[]).count(), 0)?;
    agree(
        "nobody's packets",
        samples.sum("dtm_unattributed_transmit_packets_total", &[]),
        0,
    )
}
