//! A host without an engine, and a cable that leads to it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::Dtm,
    far::{Far, traffic},
};
use xtask::host::{CgroupWorld, Host, LinkStatistics, eventually};

/// How long dtm may take to do what an event tells it to.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long where nothing tells of it: dtm looks every 30 s.
pub(crate) const LATER: Duration = Duration::from_mins(1);
/// The host's end of the cable.
pub(crate) const UPLINK: &str = "near1";

/// Everything.
pub(crate) struct Stage {
    // In the order in which they have to end.
    pub(crate) dtm: Option<Dtm>,
    pub(crate) far: Far,
    pub(crate) host: Host,
}

/// What dtm says of an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Packets and bytes by protocol.
    pub(crate) protocols: BTreeMap<String, (u64, u64)>,
    pub(crate) syns: u64,
}

impl Counted {
    pub(crate) fn all(&self) -> (u64, u64) {
        let all = self.protocols.values();
        all.fold((0, 0), |sum, volume| (sum.0 + volume.0, sum.1 + volume.1))
    }

    fn since(mut self, before: &Self) -> Self {
        for (protocol, volume) in &mut self.protocols {
            let before = before.protocols.get(protocol).copied().unwrap_or_default();
            *volume = (volume.0 - before.0, volume.1 - before.1);
        }
        self.syns -= before.syns;
        self
    }
}

impl Stage {
    /// With a dtm that is started with these arguments.
    pub(crate) fn new(arguments: &[&str]) -> Result<Self> {
        let mut stage = Self::without_dtm()?;
        stage.start(arguments)?;
        Ok(stage)
    }

    pub(crate) fn without_dtm() -> Result<Self> {
        let host = Host::new(CgroupWorld::V2)?;
        host.run("ip", ["link", "set", "lo", "up"])?;
        Ok(Self {
            far: Far::new(&host, 1)?,
            host,
            dtm: None,
        })
    }

    pub(crate) fn start(&mut self, arguments: &[&str]) -> Result<()> {
        self.dtm = Some(Dtm::start(&self.host, arguments)?);
        Ok(())
    }

    pub(crate) fn dtm(&self) -> Result<&Dtm> {
        self.dtm.as_ref().context("a dtm")
    }

    /// Lays a second cable beside the first, from `name` to the same place, with nobody at either end.
    pub(crate) fn lay(&self, name: &str) -> Result<()> {
        let pair = [
            "link", "add", name, "type", "veth", "peer", "name", name, "netns", "far1",
        ];
        self.host.run("ip", pair)?;
        // Nobody speaks there who was not told to.
        let silence = ["-qw", &format!("net.ipv6.conf.{name}.disable_ipv6=1")];
        let up = ["link", "set", name, "up"];
        let network = self.far.network();
        self.host.run("sysctl", silence)?;
        network.run("sysctl", silence)?;
        self.host.run("ip", up)?;
        network.run("ip", up).map(drop)
    }

    /// How dtm is attached to an interface; none where it is not.
    pub(crate) fn mode(&self, interface: &str) -> Result<Option<&'static str>> {
        let samples = self.dtm()?.samples()?;
        let mut modes = Vec::new();
        for mode in ["native", "generic"] {
            let labels = [("interface", interface), ("mode", mode)];
            if samples.get("dtm_uplink_attached", &labels)? == 1 {
                modes.push(mode);
            }
        }
        ensure!(modes.len() < 2, "attached twice");
        Ok(modes.pop())
    }

    pub(crate) fn wait_mode(&self, interface: &str, mode: Option<&str>, patience: Duration) -> Result<()> {
        let what = format!("{interface} is attached to: {mode:?}");
        eventually(patience, &what, || {
            Ok((self.mode(interface)? == mode).then_some(()))
        })
        .with_context(|| self.dtm().map(Dtm::log).unwrap_or_default())
    }

    pub(crate) fn counted(&self, interface: &str) -> Result<Counted> {
        let samples = self.dtm()?.samples()?;
        let mut counted = Counted::default();
        for protocol in ["tcp", "udp", "icmp", "other"] {
            let labels = [("interface", interface), ("protocol", protocol)];
            let volume = (
                samples.get("dtm_uplink_receive_packets_total", &labels)?,
                samples.get("dtm_uplink_receive_bytes_total", &labels)?,
            );
            counted.protocols.insert(protocol.to_owned(), volume);
        }
        counted.syns = samples.get("dtm_uplink_receive_tcp_syns_total", &[("interface", interface)])?;
        Ok(counted)
    }

    /// What the kernel has counted at an interface.
    pub(crate) fn kernel(&self, interface: &str) -> Result<LinkStatistics> {
        let links = self.host.links()?;
        let link = links.iter().find(|link| link.name == interface);
        self.host.link_statistics(link.context("the interface")?.ifindex)
    }

    /// By how much `act` has dtm and the kernel count more at an interface: packets and bytes of the latter.
    pub(crate) fn grown(
        &self,
        interface: &str,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<(Counted, (u64, u64))> {
        let (before, kernel_before) = (self.counted(interface)?, self.kernel(interface)?);
        act()?;
        let (after, kernel) = (self.counted(interface)?, self.kernel(interface)?);
        let moved = (
            kernel.rx_packets - kernel_before.rx_packets,
            kernel.rx_bytes - kernel_before.rx_bytes,
        );
        Ok((after.since(&before), moved))
    }

    /// Sends a frame from the other end of a cable, as it is.
    pub(crate) fn send(&self, interface: &str, frames: u64, frame: &[u8]) -> Result<()> {
        let bytes: Vec<_> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let arguments = ["frames", interface, &frames.to_string(), &bytes.concat()];
        self.far.network().run(traffic()?, arguments).map(drop)
    }
}
