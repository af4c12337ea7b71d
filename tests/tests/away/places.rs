//! Containers whose traffic is counted elsewhere than at an interface of the host's: at a control group, in the namespace of
//! an overlay network, at a device of their own. Whoever sends knows how much.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{Far, UDP, Version},
    known::{ARP, DATAGRAM, SENT_BYTES, SENT_PACKETS, id_of, send, wait_gone},
    networks::{introduce, make_macvlan, make_overlay, make_swarm},
    pins,
    scene::{PATIENCE, Scene},
    watch::Watch,
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::stage::{LINGER, found};

const OVERLAY: &str = "spread";
const MACVLAN: &str = "outside";

/// What a control group does not see of a packet.
const ETHERNET: u64 = 14;

/// A network that is not counted at the host's interfaces, and where its containers send.
struct Network {
    name: &'static str,
    to: String,
    /// How long a datagram is there.
    datagram: u64,
    /// Who sends asks for addresses, and answers.
    has_arp: bool,
}

/// A container, and how many datagrams it has sent.
struct Guest<'a> {
    network: &'a Network,
    name: String,
    id: String,
    datagrams: u64,
}

impl<'a> Guest<'a> {
    fn start(scene: &Scene, network: &'a Network, fate: &str) -> Result<Self> {
        let name = format!("{}-{fate}", network.name);
        scene.run(&name, network.name, &["sleep", "3600"])?;
        Ok(Self {
            id: id_of(scene, &name)?,
            network,
            name,
            datagrams: 0,
        })
    }

    fn send(&mut self, scene: &Scene, datagrams: u64) -> Result<()> {
        self.datagrams += datagrams;
        send(scene, &self.name, &self.network.to, datagrams)
    }

    /// Waits until everything is counted, and holds dtm to no more than that.
    fn has_sent(&self, scene: &Scene) -> Result<()> {
        let Self {
            network, datagrams, ..
        } = self;
        let of = [("container_id", self.id.as_str()), ("network", network.name)];
        let what = format!("{} has sent {datagrams} datagrams", self.name);
        let (packets, bytes) = eventually(PATIENCE, &what, || {
            let samples = scene.samples()?;
            let (packets, bytes) = (samples.sum(SENT_PACKETS, &of), samples.sum(SENT_BYTES, &of));
            Ok((bytes >= datagrams * network.datagram).then_some((packets, bytes)))
        })?;
        let besides = packets.checked_sub(*datagrams);
        let besides = besides.with_context(|| format!("{what}: {packets} packets"))?;
        let at_most = if network.has_arp { 4 + datagrams / 20 } else { 0 };
        ensure!(
            besides <= at_most && bytes == datagrams * network.datagram + besides * ARP,
            "{what}: {bytes} bytes in {packets} packets"
        );
        Ok(())
    }
}

/// Networks of each kind; whoever is outside is there as long as they are.
fn networks(scene: &Scene) -> Result<([Far; 2], [Network; 3])> {
    let fars = [Far::new(scene.host(), 1)?, Far::new(scene.host(), 2)?];
    make_swarm(scene, "127.0.0.1")?;
    make_overlay(scene, OVERLAY)?;
    make_macvlan(scene, &fars[1], MACVLAN, "bridge")?;
    scene.run("receiver", OVERLAY, &["traffic", "udp-receive", &UDP.to_string()])?;
    let receiver = scene.address("receiver", OVERLAY, false)?;
    let networks = [
        Network {
            name: "host",
            to: fars[0].port(Version::V4, UDP),
            datagram: DATAGRAM - ETHERNET,
            has_arp: false,
        },
        Network {
            name: OVERLAY,
            to: Version::V4.port(&receiver, UDP),
            datagram: DATAGRAM,
            has_arp: true,
        },
        Network {
            name: MACVLAN,
            to: fars[1].port(Version::V4, UDP),
            datagram: DATAGRAM,
            has_arp: true,
        },
    ];
    Ok((fars, networks))
}

fn all_have_sent<'a>(scene: &Scene, guests: impl IntoIterator<Item = &'a Guest<'a>>) -> Result<()> {
    guests.into_iter().try_for_each(|guest| guest.has_sent(scene))
}

fn everything_goes_on_wherever_it_is_counted(kind: EngineKind, mode: &str) -> Result<()> {
    let arguments = ["--attach-mode", mode, "--linger", LINGER];
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    scene.start_dtm(&arguments)?;
    let (fars, networks) = networks(&scene)?;
    let watch = Watch::through_restarts(&scene)?;
    let (mut stay, mut end) = (Vec::new(), Vec::new());
    let mut of_ended = BTreeSet::new();
    for network in &networks {
        for (fate, guests) in [("stays", &mut stay), ("ends", &mut end)] {
            let before = pins::links(scene.host())?;
            let mut guest = Guest::start(&scene, network, fate)?;
            if network.name == MACVLAN {
                introduce(&scene, &fars[1], &guest.name, MACVLAN)?;
            }
            guest.send(&scene, 100)?;
            guest.has_sent(&scene)?;
            if fate == "ends" {
                let pins = pins::links(scene.host())?;
                of_ended.extend(pins.difference(&before).cloned());
            }
            guests.push(guest);
        }
    }

    scene.kill_dtm()?;
    for guest in stay.iter_mut().chain(&mut end) {
        guest.send(&scene, 50)?;
    }
    assert!(
        of_ended.len() >= 2,
        "a control group has a link each way: {of_ended:?}"
    );
    let remove = ["rm", "--force"].into_iter();
    scene
        .engine
        .docker(remove.chain(end.iter().map(|guest| guest.name.as_str())))?;
    scene.start_dtm(&arguments)?;
    all_have_sent(&scene, stay.iter().chain(&end))?;
    assert_eq!(found(&scene, "detached")?, 0);
    assert!(found(&scene, "attached")? >= 3, "three of them stay");
    assert!(found(&scene, "gone")? >= 3, "three of them have ended");
    eventually(PATIENCE, "no link of who has ended is pinned", || {
        Ok(pins::links(scene.host())?.is_disjoint(&of_ended).then_some(()))
    })?;

    scene.kill_dtm()?;
    for guest in &mut stay {
        guest.send(&scene, 50)?;
    }
    scene.start_dtm(&arguments)?;
    all_have_sent(&scene, &stay)?;
    for guest in &end {
        wait_gone(&scene, &guest.id)?;
    }
    watch.finish()
}

#[test]
fn everything_goes_on_wherever_it_is_counted_on_the_old_engine_with_clsact() -> Result<()> {
    everything_goes_on_wherever_it_is_counted(EngineKind::Old, "clsact")
}

#[test]
fn everything_goes_on_wherever_it_is_counted_on_the_current_engine_with_tcx() -> Result<()> {
    everything_goes_on_wherever_it_is_counted(EngineKind::Current, "tcx")
}
