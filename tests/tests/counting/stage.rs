//! Three containers on a network that carries nothing but what a test sends, IPv4 and IPv6.

use anyhow::{Context as _, Result};
use dtm_tests::{
    daemon::binary,
    scene::{Endpoint, Scene},
};
use xtask::host::{EngineKind, Running};

use crate::readings::{Place, Reading, during};

/// The network of all three.
pub(crate) const QUIET: &str = "quiet";

/// What each container runs: receivers of everything.
const RECEIVE: &str =
    "traffic udp-receive 5002 & traffic udp-receive-merged 5003 & exec traffic tcp-receive 5001";

/// Of the frames that no container's hardware address is on: a bridge sends them to all.
pub(crate) const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// One end of a container's interface and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Where it is counted.
    pub(crate) place: Place,
    /// The container's name.
    pub(crate) name: String,
    /// The interface's name inside.
    pub(crate) interface: String,
    /// Name of the host end.
    pub(crate) host_end: String,
    /// Index of the host end.
    pub(crate) ifindex: u32,
    /// The hardware address.
    pub(crate) hardware: [u8; 6],
    /// Its addresses, where it has them: the second one in brackets.
    pub(crate) ipv4: Option<String>,
    pub(crate) ipv6: Option<String>,
    process: String,
}

/// The scene and who is on it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) sender: Member,
    pub(crate) receiver: Member,
    pub(crate) bystander: Member,
    pub(crate) bridge: Place,
    /// Name of the bridge.
    pub(crate) bridge_name: String,
    /// The host's addresses on the network.
    pub(crate) gateways: [String; 2],
    /// The host's own receivers.
    _receivers: [Running; 2],
    pub(crate) scene: Scene,
}

impl Stage {
    /// An engine of this kind, dtm in this attach mode, and the three containers.
    pub(crate) fn new(kind: EngineKind, attach_mode: &str) -> Result<Self> {
        let scene = Scene::watched(kind, attach_mode)?;
        // Before the interfaces are: no solicitations, no reports of the bridges for the group of all snoopers.
        let settings = [
            "net.ipv6.conf.default.disable_ipv6=1",
            "net.ipv4.igmp_link_local_mcast_reports=0",
        ];
        scene.host().run("sysctl", ["-w"].iter().chain(&settings))?;
        let host = scene.host().holder().to_string();
        silence(&scene, &host)?;
        create_network(&scene, QUIET, &["--ipv6", "--subnet", "fd00:d8::/64"])?;
        for name in ["sender", "receiver", "bystander"] {
            scene.run(name, QUIET, &["sh", "-c", RECEIVE])?;
            let process = process(&scene, name)?;
            silence(&scene, &process)?;
        }
        let member = |name| member(&scene, name, QUIET);
        let (sender, receiver, bystander) = (member("sender")?, member("receiver")?, member("bystander")?);
        let (bridge_name, bridge) = bridge(&scene, &sender)?;
        let gateways = gateways(&scene, QUIET)?;
        let traffic = binary("traffic")?;
        let receivers = [
            scene.host().spawn(&traffic, ["udp-receive", "5002"])?,
            scene.host().spawn(&traffic, ["tcp-receive", "5001"])?,
        ];
        let stage = Self {
            sender,
            receiver,
            bystander,
            bridge,
            bridge_name,
            gateways,
            _receivers: receivers,
            scene,
        };
        let members = [&stage.sender, &stage.receiver, &stage.bystander];
        stage.introduce(&members)?;
        stage.introduce_host(&members)?;
        for member in members {
            // The bridge learns where everybody is.
            let hello = addressed(experimental(46), [0xff; 6], member.hardware);
            stage.frames(member, 1, &hello)?;
        }
        Ok(stage)
    }

    /// Everybody knows everybody's hardware address for good, so that nobody asks.
    pub(crate) fn introduce(&self, members: &[&Member]) -> Result<()> {
        for one in members {
            for other in members.iter().filter(|other| other.name != one.name) {
                let hardware = written(other.hardware);
                for address in [&other.ipv4, &other.ipv6].into_iter().flatten() {
                    self.inside(one, "ip", &neighbour(address, &hardware, &one.interface))?;
                }
            }
        }
        Ok(())
    }

    fn introduce_host(&self, members: &[&Member]) -> Result<()> {
        let class = format!("/sys/class/net/{}/address", self.bridge_name);
        let own = self.scene.host().run("cat", [class])?;
        for member in members {
            let hardware = written(member.hardware);
            for (address, gateway) in [&member.ipv4, &member.ipv6].into_iter().zip(&self.gateways) {
                let address = address.as_ref().context("an address of each kind")?;
                let known = neighbour(address, &hardware, &self.bridge_name);
                self.scene.host().run("ip", known)?;
                self.inside(member, "ip", &neighbour(gateway, own.trim(), &member.interface))?;
            }
        }
        Ok(())
    }

    /// Puts a container on another network, created with `options`.
    pub(crate) fn connect(&self, name: &str, network: &str) -> Result<Member> {
        self.scene.engine.docker(["network", "connect", network, name])?;
        member(&self.scene, name, network)
    }

    /// Runs a program of the host's in the container's network namespace.
    pub(crate) fn inside(&self, member: &Member, program: &str, arguments: &[&str]) -> Result<String> {
        let enter = ["--target", &member.process, "--net", "--", program];
        self.scene.host().run("nsenter", enter.iter().chain(arguments))
    }

    /// As [`inside`](Self::inside), with `ip` and its arguments in one text.
    pub(crate) fn ip(&self, member: &Member, arguments: &str) -> Result<()> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.inside(member, "ip", &arguments).map(drop)
    }

    /// Starts a program of the host's in the container's network namespace.
    pub(crate) fn start_inside(&self, member: &Member, program: &str, arguments: &[&str]) -> Result<Running> {
        let enter = ["--target", &member.process, "--net", "--", program];
        self.scene.host().spawn("nsenter", enter.iter().chain(arguments))
    }

    /// Runs `traffic` in the container's network namespace.
    pub(crate) fn traffic(&self, member: &Member, arguments: &[&str]) -> Result<()> {
        self.inside(member, &traffic_path()?, arguments).map(drop)
    }

    /// Runs `traffic` in the host.
    pub(crate) fn host_traffic(&self, arguments: &[&str]) -> Result<()> {
        self.scene.host().run(&traffic_path()?, arguments).map(drop)
    }

    /// Has a container send `count` copies of a frame.
    pub(crate) fn frames(&self, from: &Member, count: u64, frame: &[u8]) -> Result<()> {
        let arguments = ["frames", &from.interface, &count.to_string(), &hexadecimal(frame)];
        self.traffic(from, &arguments)
    }

    /// Runs a command of the host's, given in one text.
    pub(crate) fn host(&self, command: &str) -> Result<String> {
        let mut words = command.split_whitespace();
        let program = words.next().context("no command")?;
        self.scene.host().run(program, words)
    }

    /// Whether the bridge sends back what comes from this port: an engine without its proxy has it do that.
    pub(crate) fn is_reflected(&self, member: &Member) -> Result<bool> {
        let setting = format!("/sys/class/net/{}/brport/hairpin_mode", member.host_end);
        Ok(self.scene.host().run("cat", [setting])?.trim() == "1")
    }

    /// How much sender, receiver and bystander grow meanwhile.
    pub(crate) fn during(&self, action: impl FnOnce() -> Result<()>) -> Result<[Reading; 3]> {
        let places = [&self.sender.place, &self.receiver.place, &self.bystander.place];
        during(&self.scene, places, action)
    }

    /// How much sender and bridge grow meanwhile.
    pub(crate) fn at_bridge(&self, action: impl FnOnce() -> Result<()>) -> Result<[Reading; 2]> {
        during(&self.scene, [&self.sender.place, &self.bridge], action)
    }
}

/// What holds on a stage, in words and in code.
pub(crate) type Fact = (&'static str, fn(&Stage) -> Result<()>);

/// Tests facts that share a stage; what fails says which.
pub(crate) fn hold(kind: EngineKind, attach_mode: &str, facts: &[Fact]) -> Result<()> {
    let stage = Stage::new(kind, attach_mode)?;
    for (fact, holds) in facts {
        println!("{fact}:");
        holds(&stage).with_context(|| (*fact).to_owned())?;
    }
    Ok(())
}

/// A network whose containers' addresses the engine does not announce.
pub(crate) fn create_network(scene: &Scene, name: &str, options: &[&str]) -> Result<()> {
    let create = [
        "network",
        "create",
        "--opt",
        "com.docker.network.advertise_addr_nmsgs=0",
    ];
    scene
        .engine
        .docker(create.iter().chain(options).chain(&[name]))
        .map(drop)
}

/// Where a container is on a network; waits until dtm shows it.
pub(crate) fn member(scene: &Scene, name: &str, network: &str) -> Result<Member> {
    let endpoint = scene.endpoint(name, network)?;
    scene.wait_named(&endpoint)?;
    let link = scene.engine.container_link(name, network)?;
    let octets = link.address.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets = octets.collect::<Result<Vec<_>, _>>()?;
    Ok(Member {
        name: name.to_owned(),
        interface: link.name,
        host_end: name_of(scene, link.peer)?,
        ifindex: link.peer,
        hardware: octets[..].try_into()?,
        ipv4: scene.address(name, network, false).ok(),
        ipv6: scene
            .address(name, network, true)
            .ok()
            .filter(|address| address != "[]"),
        process: process(scene, name)?,
        place: Place::Container(endpoint),
    })
}

/// An interface of a container that Docker does not know of.
pub(crate) fn member_by_hand(stage: &Stage, of: &Member, interface: &str, host_end: u32) -> Result<Member> {
    let endpoint = Endpoint {
        container: of.name.clone(),
        network: QUIET.to_owned(),
        interface: interface.to_owned(),
        host_end,
    };
    stage.scene.wait_named(&endpoint)?;
    Ok(Member {
        interface: interface.to_owned(),
        host_end: name_of(&stage.scene, host_end)?,
        ifindex: host_end,
        hardware: [2, 0, 0, 1, 0, 1],
        ipv4: None,
        ipv6: None,
        place: Place::Container(endpoint),
        ..of.clone()
    })
}

/// The bridge a host end is a port of.
fn bridge(scene: &Scene, member: &Member) -> Result<(String, Place)> {
    let links = scene.host().links()?;
    let port = links.iter().find(|link| link.ifindex == member.ifindex);
    let ifindex = port.and_then(|port| port.master).context("it is no port")?;
    let network = QUIET.to_owned();
    Ok((name_of(scene, ifindex)?, Place::Bridge { network, ifindex }))
}

fn name_of(scene: &Scene, ifindex: u32) -> Result<String> {
    let links = scene.host().links()?;
    let link = links.into_iter().find(|link| link.ifindex == ifindex);
    Ok(link.with_context(|| format!("no interface {ifindex}"))?.name)
}

fn process(scene: &Scene, container: &str) -> Result<String> {
    scene
        .engine
        .docker(["inspect", "--format", "{{.State.Pid}}", container])
}

/// IPv4 first; the other in brackets. An old engine adds the prefix length to it.
fn gateways(scene: &Scene, network: &str) -> Result<[String; 2]> {
    let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
    let of_network = scene
        .engine
        .docker(["network", "inspect", "--format", format, network])?;
    let find = |is_ipv6: bool| {
        let mut gateways = of_network.split_whitespace();
        gateways.find(|gateway| gateway.contains(':') == is_ipv6)
    };
    let ipv6 = find(true).unwrap_or("fd00:d8::1");
    let ipv6 = ipv6.split('/').next().unwrap_or(ipv6);
    Ok([find(false).context("a gateway")?.to_owned(), format!("[{ipv6}]")])
}

/// Keeps a namespace from speaking `ICMPv6` unasked: with its neighbours known for good it needs none.
pub(crate) fn silence(scene: &Scene, process: &str) -> Result<()> {
    let rule =
        "table inet silent { chain out { type filter hook output priority 0; meta l4proto icmpv6 drop; }; }";
    let enter = ["--target", process, "--net", "nft", rule];
    scene.host().run("nsenter", enter).map(drop)
}

fn neighbour<'a>(address: &'a str, hardware: &'a str, interface: &'a str) -> [&'a str; 9] {
    let address = address.trim_matches(['[', ']']);
    [
        "neigh",
        "replace",
        address,
        "lladdr",
        hardware,
        "dev",
        interface,
        "nud",
        "permanent",
    ]
}

/// The frame with the checksum of its IPv4 header (RFC 1071), without which a bridge with netfilter on it drops it. That
/// of UDP may be missing.
pub(crate) fn checksummed(mut frame: Vec<u8>) -> Vec<u8> {
    let ipv4 = frame
        .windows(3)
        .skip(12)
        .position(|window| window == [8, 0, 0x45]);
    let Some(start) = ipv4.map(|at| 12 + at + 2) else {
        return frame;
    };
    let words = frame[start..start + 20].chunks(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[start + 10..start + 12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame
}

/// Hardware addresses as `ip` writes them.
pub(crate) fn written(hardware: [u8; 6]) -> String {
    hardware.map(|octet| format!("{octet:02x}")).join(":")
}

/// Where `traffic` is; every namespace of the host's sees it.
pub(crate) fn traffic_path() -> Result<String> {
    Ok(binary("traffic")?.to_string_lossy().into_owned())
}

/// A frame of a protocol nobody knows, with `payload` bytes in it.
pub(crate) fn experimental(payload: usize) -> Vec<u8> {
    dtm_tests::packets::PacketBuilder::ethernet()
        .payload(payload)
        .build()
}

/// The frame with other hardware addresses.
pub(crate) fn addressed(mut frame: Vec<u8>, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame
}

pub(crate) fn hexadecimal(frame: &[u8]) -> String {
    let digits = frame.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}
