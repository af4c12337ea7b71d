//! Where the kernel counts what a series shows.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::Samples,
    scene::{PATIENCE, Scene},
    tally::{Frames, Reading, Ways},
};
use xtask::host::{Network, eventually};

use crate::facts::{SENT_BYTES, agree};

/// An Ethernet header.
const ETHERNET: u64 = 14;

/// An interface of a container's: its series, and where the kernel counts the same packets.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) container: String,
    pub(crate) network: String,
    pub(crate) interface: String,
    end: End,
    namespace: Namespace,
    ifindex: u32,
}

/// Which end of it has the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The other end of the container's pair: it sends what the container receives.
    Host,
    /// The container's own device.
    Container,
}

/// Where that end is. Not an open namespace: one of those would live on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Namespace {
    Host,
    /// Mounted in the host.
    At(String),
    /// Of the container's first process.
    Of(u32),
}

impl Place {
    /// On a network with a bridge in the host.
    pub(crate) fn on_bridge(scene: &Scene, container: &str, network: &str) -> Result<Self> {
        let link = scene.engine.container_link(container, network)?;
        Ok(Self {
            container: container.to_owned(),
            network: network.to_owned(),
            interface: link.name,
            end: End::Host,
            namespace: Namespace::Host,
            ifindex: link.peer,
        })
    }

    /// On a network whose host ends and bridge are in a namespace of its own, which the engine names after it.
    pub(crate) fn on_overlay(scene: &Scene, container: &str, network: &str) -> Result<Self> {
        let id = scene
            .engine
            .docker(["network", "inspect", "--format", "{{.Id}}", network])?;
        let id = id.get(..10).context("a network's id is long")?;
        Ok(Self {
            namespace: Namespace::At(format!("/run/docker/netns/1-{id}")),
            ..Self::on_bridge(scene, container, network)?
        })
    }

    /// What a container on an overlay network has besides: its way out of the host, which is on no network that it was
    /// put on.
    pub(crate) fn on_gateway_bridge(scene: &Scene, container: &str, overlay: &str) -> Result<Self> {
        let on_overlay = scene.engine.container_link(container, overlay)?;
        let mut links = scene.engine.container_links(container)?;
        links.retain(|link| *link != on_overlay);
        ensure!(
            links.len() == 1,
            "{container} has {links:?} besides its overlay interface"
        );
        let link = links.remove(0);
        Ok(Self {
            container: container.to_owned(),
            network: "docker_gwbridge".to_owned(),
            interface: link.name,
            end: End::Host,
            namespace: Namespace::Host,
            ifindex: link.peer,
        })
    }

    /// On a network that gives containers devices without another end.
    pub(crate) fn of_device(scene: &Scene, container: &str, network: &str) -> Result<Self> {
        let link = scene.engine.container_link(container, network)?;
        Ok(Self {
            container: container.to_owned(),
            network: network.to_owned(),
            interface: link.name,
            end: End::Container,
            namespace: Namespace::Of(process(scene, container)?),
            ifindex: link.ifindex,
        })
    }

    /// The labels of its series.
    pub(crate) fn labels(&self) -> [(&str, &str); 3] {
        [
            ("name", &self.container),
            ("network", &self.network),
            ("interface", &self.interface),
        ]
    }

    /// The values of these labels.
    pub(crate) fn names(&self) -> [&str; 3] {
        self.labels().map(|(_label, value)| value)
    }

    /// Waits until dtm shows its series.
    pub(crate) fn wait_shown(&self, scene: &Scene) -> Result<()> {
        eventually(PATIENCE, &format!("the series of {:?}", self.names()), || {
            Ok(scene.samples()?.find(SENT_BYTES, &self.labels())?.map(drop))
        })
    }
}

/// What the kernel has counted at all places, as the containers see it.
fn kernel(scene: &Scene, places: &[&Place]) -> Result<Vec<Ways<Frames>>> {
    let mut known = BTreeMap::new();
    for namespace in places.iter().map(|place| &place.namespace) {
        if !known.contains_key(namespace) {
            let network = match namespace {
                Namespace::Host => scene.host().network()?,
                Namespace::At(path) => scene.host().network_at(path)?,
                Namespace::Of(process) => Network::of_process(*process)?,
            };
            known.insert(namespace, network.link_statistics()?);
        }
    }
    let at = |place: &&Place| {
        let there = known.get(&place.namespace);
        let counted = there.and_then(|links| links.get(&place.ifindex));
        let counted = counted.with_context(|| format!("{place:?} is not there"))?;
        // A macvlan device counts a frame to all that another one on the same parent sends as if it had two Ethernet
        // headers (`macvlan_broadcast`). Nobody else here sends such frames to one.
        let doubled = match place.end {
            End::Host => 0,
            End::Container => ETHERNET * counted.rx_multicast,
        };
        let came = Frames {
            packets: counted.rx_packets,
            bytes: counted.rx_bytes - doubled,
        };
        let went = Frames {
            packets: counted.tx_packets,
            bytes: counted.tx_bytes,
        };
        let (receive, transmit) = match place.end {
            End::Host => (went, came),
            End::Container => (came, went),
        };
        Ok(Ways { receive, transmit })
    };
    places.iter().map(at).collect()
}

/// The counters of all places at one moment: read again until nothing moves any more.
pub(crate) fn read(scene: &Scene, places: &[&Place]) -> Result<Vec<Reading>> {
    let mut last = Vec::new();
    let (kernel, samples) = eventually(PATIENCE, "the traffic pauses", || {
        // What waits for a CPU has come by the next look.
        let before = kernel(scene, places)?;
        if std::mem::replace(&mut last, before.clone()) != before {
            return Ok(None);
        }
        let samples = scene.samples()?;
        Ok((kernel(scene, places)? == before).then_some((before, samples)))
    })?;
    let counted = |(place, kernel): (&&Place, Ways<Frames>)| shown(place, &samples, kernel);
    places.iter().zip(kernel).map(counted).collect()
}

fn shown(place: &Place, samples: &Samples, kernel: Ways<Frames>) -> Result<Reading> {
    Ok(Reading {
        kernel,
        ours: Ways::shown(samples, &place.labels())?,
    })
}

/// How much the counters of all places grow meanwhile.
pub(crate) fn during(
    scene: &Scene,
    places: &[&Place],
    action: impl FnOnce() -> Result<()>,
) -> Result<Vec<Reading>> {
    let before = read(scene, places)?;
    action()?;
    let after = read(scene, places)?;
    Ok(after
        .into_iter()
        .zip(before)
        .map(|(after, before)| after.since(before))
        .collect())
}

/// Holds every place to the kernel's count of traffic without segmentation: packets, bytes and wire bytes.
pub(crate) fn all_exact(places: &[&Place], readings: &[Reading]) -> Result<()> {
    for (place, Reading { kernel, ours }) in places.iter().zip(readings) {
        let what = |way: &str| format!("{way} of {:?}", place.names());
        for (way, ours, kernel) in [
            ("receive", ours.receive, kernel.receive),
            ("transmit", ours.transmit, kernel.transmit),
        ] {
            agree(&what(way), ours.frames(), kernel)?;
            agree(&what(way), ours.wire(), kernel)?;
        }
    }
    Ok(())
}

/// Holds every place to the kernel's count of bytes, whatever was segmented.
pub(crate) fn bytes_exact(places: &[&Place], readings: &[Reading]) -> Result<()> {
    for (place, Reading { kernel, ours }) in places.iter().zip(readings) {
        let counted = (ours.receive.bytes, ours.transmit.bytes);
        let truth = (kernel.receive.bytes, kernel.transmit.bytes);
        agree(&format!("bytes of {:?}", place.names()), counted, truth)?;
    }
    Ok(())
}

/// Holds every place to the kernel's count of what its container has sent: bytes.
pub(crate) fn sent_exact(places: &[&Place], readings: &[Reading]) -> Result<()> {
    for (place, Reading { kernel, ours }) in places.iter().zip(readings) {
        let what = format!("bytes sent by {:?}", place.names());
        agree(&what, ours.transmit.bytes, kernel.transmit.bytes)?;
    }
    Ok(())
}

/// The first process of a running container.
pub(crate) fn process(scene: &Scene, container: &str) -> Result<u32> {
    scene.engine.process(container)
}

/// The network namespace of a running container. Not to be kept: the namespace has to end with the container.
pub(crate) fn inside(scene: &Scene, container: &str) -> Result<Network> {
    scene.engine.inside(container)
}
