//! Interfaces that get their name late, after their end, or never.

use anyhow::{Context as _, Result};
use dtm_tests::{
    daemon::{Samples, binary},
    known::{PAYLOAD, RECEIVED_BYTES, SENT_BYTES, id_of, plain_stage, port_of, wait_gone},
    scene::{Moved, PATIENCE, SILENT, Scene},
};
use xtask::host::{EngineKind, LinkStatistics, eventually};

const NOBODYS_RECEIVED: &str = "dtm_unattributed_receive_bytes_total";
const NOBODYS_SENT: &str = "dtm_unattributed_transmit_bytes_total";
const BRIDGE: &str = "by-hand0";

/// A veth pair made by hand: the host end a port of a bridge, the other in a namespace without any container.
struct Pair<'a> {
    scene: &'a Scene,
    name: &'a str,
    /// Index of the host end.
    host_end: u32,
}

impl<'a> Pair<'a> {
    /// Makes it, with an address of the bridge's network.
    fn new(scene: &'a Scene, name: &'a str, bridge: &str, address: &str) -> Result<Self> {
        let pair = Self::silent(scene, name, bridge)?;
        let inside = |arguments: &[&str]| {
            let there = ["-n", name];
            scene.host().run("ip", there.iter().chain(arguments)).map(drop)
        };
        inside(&["address", "add", address, "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        Ok(pair)
    }

    fn silent(scene: &'a Scene, name: &'a str, bridge: &str) -> Result<Self> {
        let ip = |arguments: &[&str]| scene.host().run("ip", arguments).map(drop);
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name,
        ])?;
        ip(&["link", "set", name, "master", bridge, "up"])?;
        let links = scene.host().links()?;
        let link = links.iter().find(|link| link.name == name);
        Ok(Self {
            scene,
            name,
            host_end: link.context("the host end is there")?.ifindex,
        })
    }

    /// Sends datagrams from the other end.
    fn send(&self, to: &str, datagrams: u64) -> Result<()> {
        let (count, size) = (datagrams.to_string(), PAYLOAD.to_string());
        let traffic = binary("traffic")?;
        let traffic = traffic.to_str().context("a path that is UTF-8")?;
        let arguments = ["netns", "exec", self.name, traffic, "udp-send", to, &count, &size];
        self.scene.host().run("ip", arguments).map(drop)
    }

    /// What the kernel counts, as the other end sees it.
    fn kernel(&self) -> Result<Moved> {
        let LinkStatistics {
            rx_bytes, tx_bytes, ..
        } = self.scene.host().link_statistics(self.host_end)?;
        Ok((tx_bytes, rx_bytes))
    }

    fn delete(&self) -> Result<()> {
        self.scene
            .host()
            .run("ip", ["link", "delete", self.name])
            .map(drop)
    }
}

fn nobodys(samples: &Samples) -> Result<Moved> {
    Ok((
        samples.get(NOBODYS_RECEIVED, &[])?,
        samples.get(NOBODYS_SENT, &[])?,
    ))
}

fn plus(one: Moved, other: Moved) -> Moved {
    (one.0 + other.0, one.1 + other.1)
}

/// Waits until dtm shows as nobody's what it should.
fn wait_nobodys(scene: &Scene, what: &str, moved: impl Fn() -> Result<Moved>) -> Result<()> {
    eventually(PATIENCE * 2, what, || {
        Ok((nobodys(&scene.samples()?)? == moved()?).then_some(()))
    })
}

fn pending(scene: &Scene) -> Result<u64> {
    Ok(scene.samples()?.sum("dtm_interfaces", &[("state", "pending")]))
}

/// What was nobody's stays so, and the container that is found after all has what comes from now on.
///
/// Returns its id, and what had been counted before.
fn gets_its_name_after_all(late: &Pair<'_>, address: &str, to: &str) -> Result<(String, Moved)> {
    let scene = late.scene;
    scene.run("owner", "none", &["sleep", "3600"])?;
    let owner = id_of(scene, "owner")?;
    let of_late = late.kernel()?;
    let process = scene
        .engine
        .docker(["inspect", "--format", "{{.State.Pid}}", "owner"])?;
    let inside = [
        "netns", "exec", late.name, "ip", "link", "set", "eth0", "netns", &process,
    ];
    scene.host().run("ip", inside)?;
    let of_owner = [("container_id", owner.as_str()), ("network", SILENT)];
    eventually(PATIENCE * 2, "it has a name", || {
        Ok(scene.samples()?.find(SENT_BYTES, &of_owner)?.map(drop))
    })?;
    let enter = |arguments: &[&str]| {
        let inside = ["--net", "--target", &process, "ip"];
        scene
            .host()
            .run("nsenter", inside.iter().chain(arguments))
            .map(drop)
    };
    enter(&["address", "add", address, "dev", "eth0"])?;
    enter(&["link", "set", "eth0", "up"])?;
    scene.exec("owner", &["traffic", "udp-send", to, "500", &PAYLOAD.to_string()])?;
    eventually(PATIENCE, "its container has the rest", || {
        let (kernel, samples) = (late.kernel()?, scene.samples()?);
        let counted = (
            samples.get(RECEIVED_BYTES, &of_owner)?,
            samples.get(SENT_BYTES, &of_owner)?,
        );
        Ok((plus(counted, of_late) == kernel && counted.1 > 500 * PAYLOAD).then_some(()))
    })?;
    Ok((owner, of_late))
}

fn what_nobody_names_is_shown_as_nobodys(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    let slots = || {
        scene
            .samples()?
            .get("dtm_bpf_map_entries", &[("map", "counters")])
    };
    let slots_before = slots()?;
    let network = scene.engine.docker([
        "network",
        "inspect",
        "--format",
        "{{.Id}} {{(index .IPAM.Config 0).Gateway}}",
        SILENT,
    ])?;
    let (id, gateway) = network.split_once(' ').context("an id and a gateway")?;
    let bridge = format!("br-{}", &id[..12]);
    let to = port_of(&scene, "receiver", SILENT)?;
    let subnet = gateway.rsplit_once('.').context("an IPv4 address")?.0;

    // Two on a bridge of Docker's, one of which will get a container late; one on somebody else's bridge.
    let stays = Pair::new(&scene, "stays", &bridge, &format!("{subnet}.200/16"))?;
    let late = Pair::new(&scene, "late", &bridge, &format!("{subnet}.201/16"))?;
    scene
        .host()
        .run("ip", ["link", "add", BRIDGE, "type", "bridge"])?;
    scene.host().run("ip", ["link", "set", BRIDGE, "up"])?;
    let foreign = Pair::new(&scene, "foreign", BRIDGE, "198.18.7.2/24")?;
    let brief = Pair::new(&scene, "brief", &bridge, &format!("{subnet}.202/16"))?;
    eventually(PATIENCE, "all four are attached to", || {
        let samples = scene.samples()?;
        let waiting = samples.sum("dtm_interfaces", &[("state", "pending"), ("mode", mode)]);
        Ok((waiting == 4).then_some(()))
    })?;
    for (pair, datagrams) in [(&stays, 100), (&late, 200), (&brief, 300)] {
        pair.send(&to, datagrams)?;
    }
    assert_eq!(
        nobodys(&scene.samples()?)?,
        (0, 0),
        "they may still get their names"
    );

    // Gone without a name: nobody's, after a while.
    let of_brief = brief.kernel()?;
    brief.delete()?;
    wait_nobodys(&scene, "what is gone is nobody's", || Ok(of_brief))?;

    // On somebody else's bridge: left alone.
    eventually(PATIENCE, "the foreign one is left alone", || {
        Ok((pending(&scene)? == 2).then_some(()))
    })?;
    if mode == "clsact" {
        for direction in ["ingress", "egress"] {
            let show = ["filter", "show", "dev", foreign.name, direction];
            assert_eq!(scene.host().run("tc", show)?, "");
        }
    }
    assert_eq!(
        nobodys(&scene.samples()?)?,
        of_brief,
        "what is not Docker's is not dtm's"
    );

    // There without a name for long: nobody's as well, and it goes on.
    let all = || Ok(plus(of_brief, plus(stays.kernel()?, late.kernel()?)));
    wait_nobodys(&scene, "what has no name for long is nobody's", all)?;
    for pair in [&stays, &late] {
        pair.send(&to, 100)?;
    }
    wait_nobodys(&scene, "it goes on", all)?;

    let (owner, of_late) = gets_its_name_after_all(&late, &format!("{subnet}.201/16"), &to)?;
    let nobodys_now = plus(of_brief, plus(stays.kernel()?, of_late));
    assert_eq!(nobodys(&scene.samples()?)?, nobodys_now);

    // The ends of both.
    stays.delete()?;
    scene.engine.docker(["rm", "--force", "owner"])?;
    wait_gone(&scene, &owner)?;
    eventually(PATIENCE, "nothing is left", || {
        Ok((slots()? == slots_before).then_some(()))
    })?;
    assert_eq!(nobodys(&scene.samples()?)?, nobodys_now);
    watch.finish()
}

#[test]
fn what_nobody_names_is_shown_as_nobodys_on_the_old_engine_with_clsact() -> Result<()> {
    what_nobody_names_is_shown_as_nobodys(EngineKind::Old, "clsact")
}

#[test]
fn what_nobody_names_is_shown_as_nobodys_on_the_current_engine_with_tcx() -> Result<()> {
    what_nobody_names_is_shown_as_nobodys(EngineKind::Current, "tcx")
}
