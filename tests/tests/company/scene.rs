//! A container that somebody else has an interest in, too.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    attached::{self, filters},
    daemon::{Dtm, Samples},
    foreign::Side,
    scene::{Endpoint, Moved, SILENT, Scene, growth},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

const CONTAINER: &str = "box";
const DATAGRAMS_SENT: u64 = 300;
const DATAGRAMS_RECEIVED: u64 = 200;
const SIZE: u64 = 400;
/// Ethernet, IPv4 and UDP.
const HEADERS: u64 = 14 + 20 + 8;

/// How soon dtm notices what the kernel tells of: its own patience is a fifth of a second.
pub(crate) const SOON: Duration = Duration::from_secs(4);
/// How soon it notices what it has to look for, every ten seconds.
pub(crate) const LATER: Duration = Duration::from_secs(20);

/// What an exchange moves, as the container sees it: (received, sent).
pub(crate) const MOVED: Moved = (
    DATAGRAMS_RECEIVED * (SIZE + HEADERS),
    DATAGRAMS_SENT * (SIZE + HEADERS),
);
/// The same in packets.
pub(crate) const PACKETS: (u64, u64) = (DATAGRAMS_RECEIVED, DATAGRAMS_SENT);

/// An engine with one container, on a network on which nobody speaks unasked.
pub(crate) struct Company {
    pub(crate) scene: Scene,
    pub(crate) endpoint: Endpoint,
    /// What the kernel calls the host's end.
    pub(crate) host_end: String,
    container_address: String,
    gateway: String,
    socket: UdpSocket,
}

/// How much each side has counted, as the container sees it: (received, sent).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grown {
    pub(crate) kernel: Moved,
    pub(crate) dtm: Moved,
}

/// Both sides have counted all that was sent.
pub(crate) const EXACT: Grown = Grown {
    kernel: MOVED,
    dtm: MOVED,
};

impl Company {
    pub(crate) fn new(kind: EngineKind) -> Result<Self> {
        let scene = Scene::new(EngineOptions::new(kind))?;
        scene.make_silent_network()?;
        scene.run(CONTAINER, SILENT, &["traffic", "udp-receive", "9"])?;
        let endpoint = scene.endpoint(CONTAINER, SILENT)?;
        let links = scene.host().links()?;
        let named = |ifindex: u32| {
            let link = links.iter().find(|link| link.ifindex == ifindex);
            link.with_context(|| format!("no interface {ifindex}"))
        };
        let host_end = named(endpoint.host_end)?;
        let bridge = &named(host_end.master.context("a port of a bridge")?)?.name;
        let container_address = scene.address(CONTAINER, SILENT, false)?;
        let gateway = format!("{{{{(index .NetworkSettings.Networks \"{SILENT}\").Gateway}}}}");
        let gateway = scene
            .engine
            .docker(["inspect", "--format", &gateway, CONTAINER])?;
        let socket = scene.host().network()?.enter(|| UdpSocket::bind("0.0.0.0:9"))?;
        let socket = socket.context("listen in the host")?;
        // Whoever knows the other does not ask who that is.
        let own = scene.engine.container_link(CONTAINER, SILENT)?.address;
        let neighbour = ["neighbour", "replace", &container_address, "lladdr", &own];
        let for_ever = ["nud", "permanent", "dev"];
        scene
            .host()
            .run("ip", neighbour.iter().chain(&for_ever).chain(&[bridge.as_str()]))?;
        let bridge =
            std::fs::read_to_string(scene.host().outside(&format!("/sys/class/net/{bridge}/address")));
        let bridge = bridge.context("the bridge's address")?;
        let enter = [&format!("--target={}", process(&scene)?), "--net", "ip"];
        let neighbour = ["neighbour", "replace", &gateway, "lladdr", bridge.trim()];
        scene.host().run(
            "nsenter",
            enter
                .into_iter()
                .chain(neighbour)
                .chain(for_ever)
                .chain([endpoint.interface.as_str()]),
        )?;
        Ok(Self {
            host_end: host_end.name.clone(),
            scene,
            endpoint,
            container_address,
            gateway,
            socket,
        })
    }

    /// Starts a dtm in this attach mode that takes everything off at its end, and waits until it has named the container.
    pub(crate) fn watch(&mut self, mode: &str) -> Result<()> {
        self.scene.start_dtm(&["--attach-mode", mode, "--no-pin"])?;
        self.scene.wait_named(&self.endpoint)
    }

    pub(crate) fn dtm(&self) -> Result<&Dtm> {
        self.scene.dtm()
    }

    /// The container's first process.
    pub(crate) fn process(&self) -> Result<u32> {
        process(&self.scene)
    }

    pub(crate) fn tc(&self, words: &str) -> Result<String> {
        self.scene.host().run("tc", words.split_whitespace())
    }

    /// Adds or removes a filter on one side of the host's end, as `words` say.
    pub(crate) fn filter(&self, action: &str, side: Side, words: &str) -> Result<()> {
        let (host_end, side) = (&self.host_end, side.as_str());
        self.tc(&format!("filter {action} dev {host_end} {side} {words}"))
            .map(drop)
    }

    /// The qdiscs and filters of the host's end.
    pub(crate) fn furniture(&self) -> Result<[String; 3]> {
        Ok([
            self.tc(&format!("qdisc show dev {}", self.host_end))?,
            filters(self.scene.host(), &self.host_end, "ingress")?,
            filters(self.scene.host(), &self.host_end, "egress")?,
        ])
    }

    /// How dtm is attached to the host's end.
    pub(crate) fn attached(&self) -> Result<Vec<String>> {
        let all = attached::to_interfaces(self.scene.host())?.into_iter();
        let here = all.filter(|(interface, _how)| *interface == self.host_end);
        Ok(here.map(|(_interface, how)| how).collect())
    }

    /// Sends [`MOVED`] and gives what was counted of it.
    pub(crate) fn exchange(&self) -> Result<Grown> {
        let before = self.scene.both(&self.endpoint)?;
        self.send()?;
        let after = self.scene.both(&self.endpoint)?;
        Ok(Grown {
            kernel: growth(before.0, after.0),
            dtm: growth(before.1, after.1),
        })
    }

    /// Sends [`MOVED`].
    pub(crate) fn send(&self) -> Result<()> {
        let to = format!("{}:9", self.gateway);
        let (count, size) = (DATAGRAMS_SENT.to_string(), SIZE.to_string());
        self.scene
            .exec(CONTAINER, &["traffic", "udp-send", &to, &count, &size])?;
        let payload = vec![b'u'; SIZE as usize];
        let to = format!("{}:9", self.container_address);
        for _datagram in 0..DATAGRAMS_RECEIVED {
            let sent = self.socket.send_to(&payload, &to).context("send a datagram")?;
            ensure!(sent == payload.len(), "only {sent} bytes were sent");
        }
        Ok(())
    }

    /// Interfaces that are attached to in this mode and have a container's name.
    pub(crate) fn named(&self, mode: &str) -> Result<u64> {
        let labels = [("state", "named"), ("mode", mode)];
        self.scene.samples()?.get("dtm_interfaces", &labels)
    }

    pub(crate) fn wait_preceded(&self, mode: &str, count: u64, patience: Duration) -> Result<()> {
        let what = format!("{count} interfaces are preceded");
        self.wait(patience, &what, |samples| {
            Ok(samples.get("dtm_interfaces_preceded", &[("mode", mode)])? == count)
        })
    }

    pub(crate) fn wait_reattached(&self, count: u64, patience: Duration) -> Result<()> {
        self.wait(
            patience,
            &format!("{count} attachments were made again"),
            |samples| {
                let reattached = samples.get("dtm_reattached_total", &[])?;
                ensure!(reattached <= count, "{reattached} attachments were made again");
                Ok(reattached == count)
            },
        )
    }

    fn wait(
        &self,
        patience: Duration,
        what: &str,
        condition: impl Fn(&Samples) -> Result<bool>,
    ) -> Result<()> {
        eventually(patience, what, || {
            Ok(condition(&self.scene.samples()?)?.then_some(()))
        })
        .with_context(|| self.dtm().map(Dtm::log).unwrap_or_default())
    }
}

fn process(scene: &Scene) -> Result<u32> {
    let id = ["inspect", "--format", "{{.State.Pid}}", CONTAINER];
    scene.engine.docker(id)?.parse().context("a process id")
}
