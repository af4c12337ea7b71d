//! What a container that may change its network does to its interface, under traffic: its series goes on, exactly, and
//! under the name the interface had at first sight.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::scene::{PATIENCE, Scene};
use xtask::host::{EngineKind, Running, eventually};

use crate::{
    readings::{eventually_shows, read},
    stage::{Member, QUIET, Stage, addressed, experimental, hexadecimal, silence, traffic_path, written},
};

const BYTES: &str = "dtm_container_network_receive_bytes_total";

/// A frame every millisecond each way, between the one that takes liberties and the one that receives.
struct Streams(Vec<Running>);

impl Streams {
    fn start(stage: &Stage, actor: &Member, interface: &str, hardware: [u8; 6]) -> Result<Self> {
        let peer = &stage.receiver;
        let there = addressed(experimental(286), peer.hardware, hardware);
        let back = addressed(experimental(186), hardware, peer.hardware);
        let traffic = traffic_path()?;
        let start = |member: &Member, interface: &str, frame: &[u8]| {
            let arguments = ["frame-stream", interface, &hexadecimal(frame)];
            stage.start_inside(member, &traffic, &arguments)
        };
        Ok(Self(vec![
            start(actor, interface, &there)?,
            start(peer, "eth0", &back)?,
        ]))
    }

    /// Waits until both have moved the actor's counters on.
    fn flow(stage: &Stage, actor: &Member) -> Result<()> {
        let count = || stage.scene.host().link_statistics(actor.ifindex);
        let before = count()?;
        eventually(PATIENCE, "frames flow both ways", || {
            let now = count()?;
            let flows = now.rx_packets > before.rx_packets + 20 && now.tx_packets > before.tx_packets + 20;
            Ok(flows.then_some(()))
        })
    }
}

/// Growth is the kernel's since the container's birth, in the one series it has.
fn is_exact(stage: &Stage, actor: &Member, after: &str) -> Result<()> {
    let [reading] = read(&stage.scene, [&actor.place])?;
    let (kernel, ours) = (reading.kernel, reading.ours);
    assert_eq!(ours.receive.frames(), kernel.receive, "{after}");
    assert_eq!(ours.transmit.frames(), kernel.transmit, "{after}");
    let samples = stage.scene.samples()?;
    let labels = [("name", actor.name.as_str())];
    let series: Vec<_> = samples.all(BYTES, &labels).collect();
    assert_eq!(series.len(), 1, "{after}: {series:?}");
    assert_eq!(series[0].labels["interface"], "eth0", "{after}");
    Ok(())
}

/// One thing a container does to its interface.
struct Liberty {
    what: &'static str,
    /// `OWN` is the hardware address it was born with.
    commands: &'static [&'static str],
    /// Name and hardware address afterwards, where these are not the ones it was born with.
    interface: &'static str,
    hardware: Option<[u8; 6]>,
}

const CHANGED: Option<[u8; 6]> = Some([2, 0, 0, 0, 0xaa, 1]);

const LIBERTIES: &[Liberty] = &[
    Liberty {
        what: "a new name",
        commands: &["ip link set eth0 name net7"],
        interface: "net7",
        hardware: None,
    },
    Liberty {
        what: "its old name on another device",
        commands: &["ip link add eth0 type veth peer name inner0", "ip link del eth0"],
        interface: "net7",
        hardware: None,
    },
    Liberty {
        what: "a new hardware address",
        commands: &["ip link set net7 address 02:00:00:00:aa:01"],
        interface: "net7",
        hardware: CHANGED,
    },
    Liberty {
        what: "addresses come and go",
        commands: &[
            "ip addr flush dev net7",
            "ip addr add 10.77.0.1/24 dev net7",
            "ip -6 addr add fd77::1/64 dev net7 nodad",
            "ip addr del 10.77.0.1/24 dev net7",
        ],
        interface: "net7",
        hardware: CHANGED,
    },
    Liberty {
        what: "another MTU and other offloads",
        commands: &[
            "ip link set net7 mtu 1280",
            "ethtool -K net7 tso off gso off gro on",
            "ip link set net7 mtu 9000",
            "ethtool -K net7 tso on gso on gro off",
        ],
        interface: "net7",
        hardware: CHANGED,
    },
    Liberty {
        what: "devices of its own on top",
        commands: &[
            "ip link add over0 link net7 type macvlan mode bridge",
            "ip link set over0 up",
            "ip link add tunnel0 type vxlan id 9 remote 10.77.0.2 dev net7 dstport 4789",
            "ip link set tunnel0 up",
        ],
        interface: "net7",
        hardware: CHANGED,
    },
    Liberty {
        what: "pairs and a bridge of its own",
        commands: &[
            "ip link add inner0 type veth peer name inner1",
            "ip link add bridge0 type bridge",
            "ip link set inner0 master bridge0 up",
            "ip link set bridge0 up",
            "ip link set inner1 up",
        ],
        interface: "net7",
        hardware: CHANGED,
    },
    Liberty {
        what: "into its own bridge and out of it",
        commands: &[
            "ip link del over0",
            "ip link set net7 master bridge0",
            "bridge link set dev net7 learning off",
            "ip link set net7 nomaster",
        ],
        interface: "net7",
        hardware: CHANGED,
    },
    Liberty {
        what: "back to how it was",
        commands: &[
            "ip link del inner0",
            "ip link del bridge0",
            "ip link del tunnel0",
            "ip link set net7 address OWN",
            "ip link set net7 name eth0",
        ],
        interface: "eth0",
        hardware: None,
    },
];

fn a_series_goes_on_through_all_of_it(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let stage = Stage::new(kind, attach_mode)?;
    let actor = &stage.sender;
    is_exact(&stage, actor, "at first")?;
    let states = interfaces(&stage.scene)?;
    let (mut interface, mut hardware) = ("eth0", actor.hardware);
    for liberty in LIBERTIES {
        let what = liberty.what;
        let streams = Streams::start(&stage, actor, interface, hardware)?;
        Streams::flow(&stage, actor).with_context(|| format!("before {what}"))?;
        for command in liberty.commands {
            let command = command.replace("OWN", &written(actor.hardware));
            let words: Vec<&str> = command.split_whitespace().collect();
            let (program, arguments) = words.split_first().context("a command")?;
            stage.inside(actor, program, arguments).context(what)?;
        }
        Streams::flow(&stage, actor).with_context(|| format!("after {what}"))?;
        drop(streams);
        is_exact(&stage, actor, what)?;
        interface = liberty.interface;
        hardware = liberty.hardware.unwrap_or(actor.hardware);
    }
    down_and_up(&stage, actor)?;
    inner_traffic_is_nobodys(&stage, actor)?;
    assert_eq!(interfaces(&stage.scene)?, states, "and dtm sees no others");
    away_and_gone(&stage, actor)
}

/// `dtm_interfaces`, whatever the mode.
fn interfaces(scene: &Scene) -> Result<Vec<(String, u64)>> {
    let samples = scene.samples()?;
    Ok(["pending", "named", "bridge", "failed"]
        .map(|state| {
            (
                state.to_owned(),
                samples.sum("dtm_interfaces", &[("state", state)]),
            )
        })
        .to_vec())
}

/// While the container sends; what it is offered meanwhile is another fact's.
fn down_and_up(stage: &Stage, actor: &Member) -> Result<()> {
    let mut streams = Streams::start(stage, actor, "eth0", actor.hardware)?;
    Streams::flow(stage, actor)?;
    streams.0.truncate(1);
    let show = ["ip", "link", "show", "dev", &actor.host_end];
    stage.ip(actor, "link set eth0 down")?;
    eventually_shows(&stage.scene, &show, "NO-CARRIER")?;
    stage.ip(actor, "link set eth0 up")?;
    eventually_shows(&stage.scene, &show, "state UP")?;
    let port = ["bridge", "link", "show", "dev", &actor.host_end];
    eventually_shows(&stage.scene, &port, "state forwarding")?;
    drop(streams);
    let streams = Streams::start(stage, actor, "eth0", actor.hardware)?;
    Streams::flow(stage, actor)?;
    drop(streams);
    is_exact(stage, actor, "down and up")
}

/// A process in a silent namespace of its own, made inside the container's.
fn nested(stage: &Stage, actor: &Member) -> Result<(Running, String)> {
    let process = stage.start_inside(actor, "unshare", &["--net", "sleep", "3600"])?;
    let id = process.id().to_string();
    let name = format!("/proc/{id}/comm");
    // Until then it is on its way, through namespaces that nothing may be moved into.
    eventually(PATIENCE, "the nested namespace", || {
        Ok((fs::read_to_string(&name)?.trim() == "sleep").then_some(()))
    })?;
    // What an interface says there when it comes up goes to everybody, and from some bridges back to itself.
    silence(&stage.scene, &id)?;
    Ok((process, id))
}

/// A namespace within the namespace, a pair between the two, and traffic over it.
fn inner_traffic_is_nobodys(stage: &Stage, actor: &Member) -> Result<()> {
    let (nested, inner) = nested(stage, actor)?;
    stage.ip(actor, "link add inner0 type veth peer name inner1")?;
    stage.ip(actor, &format!("link set inner1 netns {inner}"))?;
    stage.ip(actor, "link set inner0 up")?;
    let enter = ["--target", &inner, "--net", "ip", "link", "set", "inner1", "up"];
    stage.scene.host().run("nsenter", enter)?;
    let frame = hexadecimal(&addressed(experimental(486), [0xff; 6], actor.hardware));
    let unattributed = "dtm_unattributed_transmit_bytes_total";
    let before = stage.scene.samples()?.sum(unattributed, &[]);
    let [sender, receiver, bystander] =
        stage.during(|| stage.traffic(actor, &["frames", "inner0", "200", &frame]))?;
    for reading in [sender, receiver, bystander] {
        assert_eq!(reading.ours, crate::readings::Ways::default());
    }
    assert_eq!(stage.scene.samples()?.sum(unattributed, &[]), before);
    stage.ip(actor, "link del inner0")?;
    drop(nested);
    Ok(())
}

/// The interface moved out of the container's namespace, and deleted.
fn away_and_gone(stage: &Stage, actor: &Member) -> Result<()> {
    let (_nested, inner) = nested(stage, actor)?;
    stage.ip(actor, &format!("link set eth0 netns {inner}"))?;
    let enter = ["--target", &inner, "--net"];
    let run = |command: &[&str]| stage.scene.host().run("nsenter", enter.iter().chain(command));
    run(&["ip", "link", "set", "eth0", "up"])?;
    let port = ["bridge", "link", "show", "dev", &actor.host_end];
    eventually_shows(&stage.scene, &port, "state forwarding")?;
    let frame = hexadecimal(&addressed(experimental(86), [0xff; 6], actor.hardware));
    run(&[&traffic_path()?, "frames", "eth0", "100", &frame])?;
    is_exact(stage, actor, "in a namespace of its own making")?;
    let [before, other] = read(&stage.scene, [&actor.place, &stage.receiver.place])?;
    let sums = |scene: &Scene| -> Result<u64> {
        let network = [("network", QUIET)];
        Ok(scene
            .samples()?
            .sum("dtm_network_containers_transmit_bytes_total", &network))
    };
    let sum = sums(&stage.scene)?;
    run(&["ip", "link", "del", "eth0"])?;
    let labels = [("name", actor.name.as_str())];
    eventually(PATIENCE, "dtm sees it go", || {
        let gone = interfaces(&stage.scene)?[1].1 == 2;
        Ok(gone.then_some(()))
    })?;
    let samples = stage.scene.samples()?;
    // The container runs: what it has moved stays.
    let total = samples.get(BYTES, &labels)?;
    assert_eq!(total, before.ours.receive.bytes);
    assert_eq!(sums(&stage.scene)?, sum);
    let [after] = read(&stage.scene, [&stage.receiver.place])?;
    assert_eq!(after.kernel.receive, other.kernel.receive);
    ensure!(total > 0, "it had received something");
    is_exact(stage, &stage.receiver, "when another's interface was deleted")
}

#[test]
fn a_series_goes_on_whatever_the_container_does_on_the_current_engine_with_tcx() -> Result<()> {
    a_series_goes_on_through_all_of_it(EngineKind::Current, "tcx")
}

#[test]
fn a_series_goes_on_whatever_the_container_does_on_the_old_engine_with_clsact() -> Result<()> {
    a_series_goes_on_through_all_of_it(EngineKind::Old, "clsact")
}
