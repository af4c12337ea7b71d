//! An interface that leads out of a host, and who is at its other end.

use std::time::Duration;

use anyhow::{Context as _, Result};
use xtask::host::{Host, Network, Running, eventually};

use crate::daemon::binary;

/// Where everybody there listens: a receiver of datagrams, and one of connections.
pub const UDP: u16 = 5002;
/// See [`UDP`].
pub const TCP: u16 = 5001;

const LISTENING: Duration = Duration::from_secs(10);

/// The other end: a network namespace in which everything is received.
#[derive(Debug)]
pub struct Far {
    number: u8,
    network: Network,
    _receivers: [Running; 2],
}

impl Far {
    /// Lays a cable from `host` to a place that no other of the host's has this number.
    ///
    /// Neither end asks for the other's hardware address, and the other end says nothing of its own accord.
    pub fn new(host: &Host, number: u8) -> Result<Self> {
        let name = format!("far{number}");
        let script = format!(
            "
            ip netns add {name}
            ip link add near{number} type veth peer name far0 netns {name}
            sysctl -qw net.ipv6.conf.near{number}.disable_ipv6=0 net.ipv6.conf.near{number}.router_solicitations=0
            ip address add {near}/24 dev near{number}
            ip address add {near6}/64 dev near{number} nodad
            ip link set near{number} up
            inside() {{ ip netns exec {name} \"$@\"; }}
            inside nft 'table inet silent {{
                chain out {{ type filter hook output priority 0; meta l4proto icmpv6 drop; }}
            }}'
            inside ip link set lo up
            inside ip address add {far}/24 dev far0
            inside ip address add {far6}/64 dev far0 nodad
            inside ip link set far0 up
            inside ip route add default via {near}
            inside ip -6 route add default via {near6}
            own=$(cat /sys/class/net/near{number}/address)
            its=$(inside cat /sys/class/net/far0/address)
            for address in {far} {far6}; do
                ip neighbour replace $address lladdr $its dev near{number} nud permanent
            done
            for address in {near} {near6}; do
                inside ip neighbour replace $address lladdr $own dev far0 nud permanent
            done
            ",
            near = ipv4(number, 1),
            near6 = ipv6(number, 1),
            far = ipv4(number, 2),
            far6 = ipv6(number, 2),
        );
        host.run("sh", ["-euc", &script])
            .with_context(|| format!("lay a cable to {name}"))?;
        let start = |arguments: [&str; 2]| {
            let traffic = traffic()?;
            let enter = ["netns", "exec", &name, &traffic];
            host.spawn("ip", enter.iter().chain(&arguments))
        };
        let receivers = [
            start(["udp-receive", &UDP.to_string()])?,
            start(["tcp-receive", &TCP.to_string()])?,
        ];
        let network = host.network_at(&format!("/run/netns/{name}"))?;
        for port in [UDP, TCP] {
            wait_listening(&network, port)?;
        }
        Ok(Self {
            number,
            network,
            _receivers: receivers,
        })
    }

    /// Name of the end that is in the host.
    pub fn interface(&self) -> String {
        format!("near{}", self.number)
    }

    /// Its network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Its subnet of IPv4.
    pub fn subnet(&self) -> String {
        ipv4(self.number, 0) + "/24"
    }

    /// The host's address there.
    pub fn near(&self, version: Version) -> String {
        version.address(self.number, 1)
    }

    /// The address of who is there.
    pub fn address(&self, version: Version) -> String {
        version.address(self.number, 2)
    }

    /// Where it receives, on one of [`UDP`] and [`TCP`].
    pub fn port(&self, version: Version, port: u16) -> String {
        version.port(&self.address(version), port)
    }

    /// Runs `traffic` there.
    pub fn traffic(&self, arguments: &[&str]) -> Result<String> {
        self.network.run(traffic()?, arguments)
    }

    /// Sends datagrams from there.
    pub fn send(&self, to: &str, datagrams: u64, size: u64) -> Result<()> {
        self.traffic(&["udp-send", to, &datagrams.to_string(), &size.to_string()])
            .map(drop)
    }

    /// Starts `traffic` there; `host` is the one that the cable leads to.
    pub fn start_traffic(&self, host: &Host, arguments: &[&str]) -> Result<Running> {
        let (name, traffic) = (format!("far{}", self.number), traffic()?);
        let enter = ["netns", "exec", &name, &traffic];
        host.spawn("ip", enter.iter().chain(arguments))
    }
}

/// A version of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// How long a header of this version is, and one of UDP behind it.
    pub fn udp_headers(self) -> u64 {
        match self {
            Self::V4 => 20 + 8,
            Self::V6 => 40 + 8,
        }
    }

    /// A port of an address, as they are written together.
    pub fn port(self, address: &str, port: u16) -> String {
        match self {
            Self::V4 => format!("{address}:{port}"),
            Self::V6 => format!("[{address}]:{port}"),
        }
    }

    fn address(self, number: u8, host: u8) -> String {
        match self {
            Self::V4 => ipv4(number, host),
            Self::V6 => ipv6(number, host),
        }
    }
}

/// Of the block for tests between networks (RFC 2544).
fn ipv4(number: u8, host: u8) -> String {
    format!("198.18.{number}.{host}")
}

fn ipv6(number: u8, host: u8) -> String {
    format!("fd00:198:18:{number}::{host}")
}

/// Where `traffic` is; every namespace of the host's sees it.
pub fn traffic() -> Result<String> {
    Ok(binary("traffic")?.to_string_lossy().into_owned())
}

/// One of the kernel's own counts of a network's datagrams, both versions together: `InDatagrams`, `RcvbufErrors` and so on.
pub fn udp_count(network: &Network, name: &str) -> Result<u64> {
    let shown = network.run("cat", ["/proc/net/snmp", "/proc/net/snmp6"])?;
    let mut ipv4 = shown.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = ipv4.next().zip(ipv4.next()).context("a table of UDP")?;
    let column = names.split(' ').position(|known| known == name);
    let ipv4 = column.and_then(|column| values.split(' ').nth(column));
    let ipv6 = shown
        .lines()
        .find_map(|line| line.strip_prefix(&format!("Udp6{name}")));
    let ipv4: u64 = ipv4.with_context(|| format!("no {name} of UDP"))?.parse()?;
    let ipv6: u64 = ipv6.map_or(Ok(0), |value| value.trim().parse())?;
    Ok(ipv4 + ipv6)
}

/// Waits until somebody listens at a port.
pub fn wait_listening(network: &Network, port: u16) -> Result<()> {
    let port = format!(":{port}");
    eventually(LISTENING, &format!("somebody listens at {port}"), || {
        let sockets = network.run("ss", ["-Hltun"])?;
        let listens = |line: &str| {
            let local = line.split_whitespace().nth(4);
            local.is_some_and(|address| address.ends_with(&port))
        };
        Ok(sockets.lines().any(listens).then_some(()))
    })
}
