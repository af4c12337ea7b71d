//! An engine with two networks, containers that send exactly what they are told, and a dtm that watches.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use xtask::host::{CgroupWorld, Engine, EngineKind, EngineOptions, Host, Image, LinkStatistics, eventually};

use crate::daemon::{Dtm, Samples, binary};

/// A network with IPv4 only.
pub const FRONT: &str = "front";
/// A network with IPv4 and IPv6.
pub const BACK: &str = "back";
/// A network on which nobody speaks unasked, see [`Scene::make_silent_network`].
pub const SILENT: &str = "silent";
/// The image of all containers: busybox and the tests' own `traffic`.
pub const IMAGE: &str = "dtm-test";
/// How long anything may take that is not timed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Two engines at a time would be in each other's way: attaching waits for the whole machine, and `kfree_skb` sees all
/// of it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Everything, until it is dropped.
#[derive(Debug)]
pub struct Scene {
    // In the order in which they have to end.
    dtm: Option<Dtm>,
    /// The engine; its host is the network dtm watches.
    pub engine: Engine,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// A running container on one network, and what the kernel counts at the host end of its interface.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The container's name.
    pub container: String,
    /// The network's name.
    pub network: String,
    /// Its name inside the container.
    pub interface: String,
    /// Index of the host end.
    pub host_end: u32,
}

/// What one side says an interface moved: bytes (received, transmitted) as the container sees it.
pub type Moved = (u64, u64);

impl Scene {
    /// An engine with its networks and image; dtm is not running yet.
    pub fn new(options: EngineOptions) -> Result<Self> {
        Self::in_world(CgroupWorld::V2, options)
    }

    /// As [`Scene::new`], in a host with this cgroup version.
    pub fn in_world(world: CgroupWorld, options: EngineOptions) -> Result<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self::set_up(world, options, Some(turn))
    }

    /// Another engine in a host of its own, whose turn it is as long as this one's.
    pub fn beside(&self, options: EngineOptions) -> Result<Self> {
        Self::set_up(CgroupWorld::V2, options, None)
    }

    fn set_up(
        world: CgroupWorld,
        options: EngineOptions,
        turn: Option<MutexGuard<'static, ()>>,
    ) -> Result<Self> {
        let engine = Engine::start(Host::new(world)?, options)?;
        let traffic = binary("traffic")?;
        let traffic = traffic.to_str().context("a path that is UTF-8")?;
        Image::busybox()?.with_program(traffic)?.import(&engine, IMAGE)?;
        engine.docker(["network", "create", FRONT])?;
        engine.docker(["network", "create", "--ipv6", "--subnet", "fd00:d7::/64", BACK])?;
        Ok(Self {
            dtm: None,
            engine,
            _turn: turn,
        })
    }

    /// As [`Scene::new`] on this engine, with dtm running in this attach mode before any container.
    pub fn watched(kind: EngineKind, attach_mode: &str) -> Result<Self> {
        let mut scene = Self::new(EngineOptions::new(kind))?;
        scene.start_dtm(&["--attach-mode", attach_mode])?;
        Ok(scene)
    }

    /// Starts dtm with `arguments` and waits until it is ready.
    pub fn start_dtm(&mut self, arguments: &[&str]) -> Result<()> {
        self.dtm = Some(Dtm::start(self.host(), arguments)?);
        Ok(())
    }

    /// As [`start_dtm`](Self::start_dtm), with a dtm of another kernel side: see [`Dtm::start_other`].
    pub fn start_other_dtm(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        self.dtm = Some(Dtm::start_other(self.host(), program, arguments)?);
        Ok(())
    }

    /// As [`start_dtm`](Self::start_dtm), and waits for no more than an answer to a scrape: Docker may say nothing.
    pub fn start_unheard_dtm(&mut self, arguments: &[&str]) -> Result<()> {
        let process = self.host().spawn(binary("dtm")?, arguments)?;
        self.dtm = Some(Dtm::scraped(self.host(), process)?);
        Ok(())
    }

    /// As [`start_dtm`](Self::start_dtm), with this in its environment: `NAME=value`.
    pub fn start_dtm_with(&mut self, variable: &str, arguments: &[&str]) -> Result<()> {
        let dtm = binary("dtm")?;
        let dtm = dtm.to_str().context("a path that is UTF-8")?;
        let process = self
            .host()
            .spawn("env", [variable, dtm].iter().chain(arguments))?;
        self.dtm = Some(Dtm::started(self.host(), process)?);
        Ok(())
    }

    /// As [`start_dtm`](Self::start_dtm), as a container that `words` after `docker` start in the foreground.
    pub fn start_dtm_contained(&mut self, words: &[String]) -> Result<()> {
        let mut command = self.engine.docker_command(words);
        let process = self.host().spawn_command(&mut command, "contained")?;
        self.dtm = Some(Dtm::started(self.host(), process)?);
        Ok(())
    }

    /// Stops dtm as an operator would.
    pub fn stop_dtm(&mut self) -> Result<()> {
        self.dtm.take().context("dtm is running")?.stop()
    }

    /// Has this signal end dtm, in order.
    pub fn end_dtm(&mut self, signal: Signal) -> Result<()> {
        self.dtm.take().context("dtm is running")?.end(signal, PATIENCE)
    }

    /// Kills dtm.
    pub fn kill_dtm(&mut self) -> Result<()> {
        self.dtm.take().context("dtm is running")?.kill()
    }

    /// The host of engine and dtm.
    pub fn host(&self) -> &Host {
        self.engine.host()
    }

    /// The running dtm.
    pub fn dtm(&self) -> Result<&Dtm> {
        self.dtm.as_ref().context("dtm is running")
    }

    /// What dtm shows now.
    pub fn samples(&self) -> Result<Samples> {
        self.dtm()?.samples()
    }

    /// Makes a network that carries nothing but what the containers on it send: no router solicitations or multicast
    /// reports of the host's IPv6, no IGMP reports of the bridge for the group of all snoopers, and no announcements
    /// of a new container's address by the engine.
    pub fn make_silent_network(&self) -> Result<()> {
        let settings = [
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1",
            "net.ipv4.igmp_link_local_mcast_reports=0",
        ];
        self.host().run("sysctl", ["-w"].iter().chain(&settings))?;
        let unannounced = ["--opt", "com.docker.network.advertise_addr_nmsgs=0"];
        let create = ["network", "create"];
        self.engine
            .docker(create.iter().chain(&unannounced).chain(&[SILENT]))
            .map(drop)
    }

    /// Keeps the host's bridges from saying anything of their own accord, those that have IPv6 included: neither `ICMPv6`
    /// nor IGMP. Containers that talk to each other do not need it.
    pub fn silence_bridges(&self) -> Result<()> {
        let rule = "table inet silent { chain out { type filter hook output priority 0; meta l4proto icmpv6 drop; }; }";
        self.host().run("nft", [rule])?;
        let setting = "net.ipv4.igmp_link_local_mcast_reports=0";
        self.host().run("sysctl", ["-qw", setting]).map(drop)
    }

    /// Starts a container that runs `command`.
    pub fn run(&self, name: &str, network: &str, command: &[&str]) -> Result<()> {
        self.run_with(name, &["--network", network], command)
    }

    /// As [`run`](Self::run), with these arguments of `docker run`.
    pub fn run_with(&self, name: &str, options: &[&str], command: &[&str]) -> Result<()> {
        let arguments = [
            "run",
            "--detach",
            "--cap-add",
            "NET_ADMIN",
            // What has nothing to put in order need not be asked to end, and waited for.
            "--stop-signal",
            "KILL",
            "--name",
            name,
        ];
        let container = options.iter().chain(&[IMAGE]).chain(command);
        self.engine.docker(arguments.iter().chain(container)).map(drop)
    }

    /// Runs a command in a running container and returns what it prints.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        self.engine.docker(["exec", container].iter().chain(command))
    }

    /// A container's address on a network.
    pub fn address(&self, container: &str, network: &str, ipv6: bool) -> Result<String> {
        let field = if ipv6 { "GlobalIPv6Address" } else { "IPAddress" };
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
        let address = self.engine.docker(["inspect", "--format", &format, container])?;
        ensure!(
            !address.is_empty(),
            "{container} has no such address on {network}"
        );
        Ok(if ipv6 { format!("[{address}]") } else { address })
    }

    /// A container's place on a network.
    pub fn endpoint(&self, container: &str, network: &str) -> Result<Endpoint> {
        let link = self.engine.container_link(container, network)?;
        Ok(Endpoint {
            container: container.to_owned(),
            network: network.to_owned(),
            interface: link.name,
            host_end: link.peer,
        })
    }

    /// Waits until dtm shows the endpoint under its name.
    pub fn wait_named(&self, endpoint: &Endpoint) -> Result<()> {
        eventually(PATIENCE, &format!("{endpoint:?} is named"), || {
            let name = "dtm_container_network_receive_bytes_total";
            Ok(self.samples()?.find(name, &endpoint.labels())?.map(drop))
        })
    }

    /// The same of a container's interface on a network, whatever it is called and wherever it is counted.
    pub fn wait_named_on(&self, container: &str, network: &str) -> Result<()> {
        let labels = [("name", container), ("network", network)];
        eventually(PATIENCE, &format!("{container} is named on {network}"), || {
            let name = "dtm_container_network_receive_bytes_total";
            Ok(self.samples()?.all(name, &labels).next().map(drop))
        })
    }

    /// What the kernel has counted at the host end, as the container sees it.
    pub fn kernel(&self, endpoint: &Endpoint) -> Result<Moved> {
        let LinkStatistics {
            rx_bytes, tx_bytes, ..
        } = self.host().link_statistics(endpoint.host_end)?;
        // What the host end sends, the container receives.
        Ok((tx_bytes, rx_bytes))
    }

    /// What dtm has counted.
    pub fn counted(&self, endpoint: &Endpoint) -> Result<Moved> {
        let samples = self.samples()?;
        Ok((
            samples.get("dtm_container_network_receive_bytes_total", &endpoint.labels())?,
            samples.get("dtm_container_network_transmit_bytes_total", &endpoint.labels())?,
        ))
    }

    /// Kernel's and dtm's counts of the same moment: read again while anything still moves between the two.
    pub fn both(&self, endpoint: &Endpoint) -> Result<(Moved, Moved)> {
        eventually(PATIENCE, "the traffic pauses", || {
            let before = self.kernel(endpoint)?;
            let counted = self.counted(endpoint)?;
            Ok((self.kernel(endpoint)? == before).then_some((before, counted)))
        })
    }
}

impl Endpoint {
    /// The labels of its series.
    pub fn labels(&self) -> [(&str, &str); 3] {
        [
            ("name", &self.container),
            ("network", &self.network),
            ("interface", &self.interface),
        ]
    }
}

/// How much both directions grew.
pub fn growth(before: Moved, after: Moved) -> Moved {
    (after.0 - before.0, after.1 - before.1)
}
