//! Two networks, three containers, one on the host's network, and somebody outside: all silent unless they are told to speak.

use anyhow::{Context as _, Result};
use dtm_tests::{
    far::{Far, UDP, Version, traffic, wait_listening},
    paths::{Amount, Paths, moves},
    scene::Scene,
};
use xtask::host::{EngineKind, EngineOptions, Running};

/// The network of the first two containers, and that of the third.
pub(crate) const LEFT: &str = "left";
/// See [`LEFT`].
pub(crate) const RIGHT: &str = "right";
/// Where the host itself receives, and the container on its network.
pub(crate) const HOST_PORT: u16 = 7001;
/// See [`HOST_PORT`].
pub(crate) const OPEN_PORT: u16 = 6001;
/// The host's port that leads to `beta`.
pub(crate) const PUBLISHED: u16 = 8081;
/// What everybody sends: so many datagrams of so many bytes.
pub(crate) const DATAGRAMS: u64 = 40;
/// See [`DATAGRAMS`].
pub(crate) const SIZE: u64 = 300;

/// Everything.
pub(crate) struct Stage {
    // In the order in which they have to end.
    pub(crate) far: Far,
    _receiver: Running,
    pub(crate) scene: Scene,
}

/// An address that is nobody's but somebody's outside, of a block for documentation or a private one.
pub(crate) fn outside(version: Version, is_private: bool) -> &'static str {
    match (version, is_private) {
        (Version::V4, false) => "198.51.100.2",
        (Version::V4, true) => "10.99.0.2",
        (Version::V6, false) => "2001:db8:77::2",
        (Version::V6, true) => "fd00:99::2",
    }
}

/// As they are counted at an interface.
pub(crate) fn datagrams(version: Version) -> Amount {
    Amount {
        packets: DATAGRAMS,
        bytes: DATAGRAMS * (14 + version.udp_headers() + SIZE),
    }
}

/// As they are counted at a control group.
pub(crate) fn datagrams_from_ip(version: Version) -> Amount {
    Amount {
        packets: DATAGRAMS,
        bytes: DATAGRAMS * (version.udp_headers() + SIZE),
    }
}

/// Sends datagrams from a container.
pub(crate) fn send(scene: &Scene, from: &str, to: &str) -> Result<()> {
    let (count, size) = (DATAGRAMS.to_string(), SIZE.to_string());
    scene
        .exec(from, &["traffic", "udp-send", to, &count, &size])
        .map(drop)
}

impl Stage {
    pub(crate) fn new(kind: EngineKind, has_proxy: bool) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions {
            arguments: vec![format!("--userland-proxy={has_proxy}")],
            ..EngineOptions::new(kind)
        })?;
        scene.silence_bridges()?;
        for (name, number) in [(LEFT, 1), (RIGHT, 2)] {
            let (v4, v6) = (format!("172.30.{number}.0/24"), format!("fd00:d{number}::/64"));
            let create = ["network", "create", "--ipv6", "--subnet", &v4, "--subnet", &v6];
            let quiet = ["--opt", "com.docker.network.advertise_addr_nmsgs=0", name];
            scene.engine.docker(create.iter().chain(&quiet))?;
        }
        scene.start_dtm(&[])?;
        let far = Far::new(scene.host(), 1)?;
        for version in Version::ALL {
            for is_private in [false, true] {
                let address = outside(version, is_private);
                let bits = if version == Version::V4 { "32" } else { "128" };
                let whole = format!("{address}/{bits}");
                let add = ["address", "add", &whole, "dev", "far0"];
                let nodad = (version == Version::V6).then_some("nodad");
                far.network().run("ip", add.into_iter().chain(nodad))?;
                let (family, via) = match version {
                    Version::V4 => ("-4", far.address(version)),
                    Version::V6 => ("-6", far.address(version)),
                };
                let route = [family, "route", "add", &whole, "via", &via];
                scene.host().run("ip", route)?;
            }
        }
        // Who is outside does not say that nobody listens there.
        let rule =
            "table inet deaf { chain out { type filter hook output priority 0; meta l4proto icmp drop; }; }";
        far.network().run("nft", [rule])?;
        let udp = UDP.to_string();
        let receive = ["traffic", "udp-receive", &udp];
        let published = format!("{PUBLISHED}:{UDP}/udp");
        scene.run("alpha", LEFT, &receive)?;
        let options = ["--network", LEFT, "--publish", &published];
        scene.run_with("beta", &options, &receive)?;
        scene.run("gamma", RIGHT, &receive)?;
        scene.run(
            "open",
            "host",
            &["traffic", "udp-receive", &OPEN_PORT.to_string()],
        )?;
        let program = traffic()?;
        let receiver = scene
            .host()
            .spawn(&program, ["udp-receive", &HOST_PORT.to_string()])?;
        for port in [OPEN_PORT, HOST_PORT] {
            wait_listening(&scene.host().network()?, port)?;
        }
        let stage = Self {
            far,
            _receiver: receiver,
            scene,
        };
        for name in ["alpha", "beta", "gamma"] {
            wait_listening(&stage.scene.engine.inside(name)?, UDP)?;
            stage.silence(name)?;
        }
        stage.introduce_all()?;
        for (name, network) in [("alpha", LEFT), ("beta", LEFT), ("gamma", RIGHT)] {
            stage.scene.wait_named(&stage.scene.endpoint(name, network)?)?;
        }
        Ok(stage)
    }

    /// Keeps a container's kernel from saying anything over IPv6 of its own accord.
    pub(crate) fn silence(&self, container: &str) -> Result<()> {
        let rule = "table inet silent { chain out { type filter hook output priority 0; meta l4proto icmpv6 drop; }; }";
        self.scene.engine.inside(container)?.run("nft", [rule]).map(drop)
    }

    /// Tells everybody on a network of everybody else's hardware address: who has to ask says more than he is told to.
    pub(crate) fn introduce_all(&self) -> Result<()> {
        let all = [("alpha", LEFT), ("beta", LEFT), ("gamma", RIGHT)];
        for (name, network) in all {
            self.introduce(name, network)?;
            for (other, same) in all {
                if same == network && other != name {
                    let hardware = self.scene.engine.container_link(other, network)?.address;
                    for version in Version::ALL {
                        let address = self.address(other, network, version)?;
                        self.tell(name, &address, &hardware)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells a container and the host of each other.
    pub(crate) fn introduce(&self, name: &str, network: &str) -> Result<()> {
        let scene = &self.scene;
        let id = ["network", "inspect", "--format", "{{.Id}}", network];
        let id = scene.engine.docker(id)?;
        let bridge = format!("br-{}", id.get(..12).context("an id")?);
        let links = scene.host().links()?;
        let link = links.iter().find(|link| link.name == bridge);
        let index = link.context("a bridge")?.ifindex;
        let own = scene
            .host()
            .run("cat", [format!("/sys/class/net/{bridge}/address")])?;
        let hardware = scene.engine.container_link(name, network)?.address;
        for version in Version::ALL {
            let address = self.address(name, network, version)?;
            let known = ["neighbour", "replace", &address, "lladdr", &hardware];
            let place = ["dev", &bridge, "nud", "permanent"];
            scene.host().run("ip", known.iter().chain(&place))?;
            self.tell(name, &Self::gateway(network, version), own.trim())?;
        }
        scene.host().link_statistics(index).map(drop)
    }

    fn tell(&self, container: &str, address: &str, hardware: &str) -> Result<()> {
        let known = ["neighbour", "replace", address, "lladdr", hardware];
        let place = ["dev", "eth0", "nud", "permanent"];
        self.scene
            .engine
            .inside(container)?
            .run("ip", known.iter().chain(&place))
            .map(drop)
    }

    /// A container's address, without brackets.
    pub(crate) fn address(&self, container: &str, network: &str, version: Version) -> Result<String> {
        let address = self.scene.address(container, network, version == Version::V6)?;
        Ok(address.trim_matches(['[', ']']).to_owned())
    }

    /// The host's address on a network.
    pub(crate) fn gateway(network: &str, version: Version) -> String {
        let number = if network == LEFT { 1 } else { 2 };
        match version {
            Version::V4 => format!("172.30.{number}.1"),
            Version::V6 => format!("fd00:d{number}::1"),
        }
    }

    /// Sends datagrams from a container.
    pub(crate) fn send(&self, from: &str, to: &str) -> Result<()> {
        send(&self.scene, from, to)
    }

    /// Sends datagrams from the host itself.
    pub(crate) fn send_from_host(&self, to: &str) -> Result<()> {
        let (count, size) = (DATAGRAMS.to_string(), SIZE.to_string());
        let program = traffic()?;
        self.scene
            .host()
            .run(&program, ["udp-send", to, &count, &size])
            .map(drop)
    }

    /// Holds dtm to `act` having moved exactly this.
    pub(crate) fn moves(&self, what: &str, act: impl FnOnce() -> Result<()>, expected: &Paths) -> Result<()> {
        moves(&self.scene, what, act, expected)
    }
}
