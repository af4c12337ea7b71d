//! A host without Docker, with pairs of interfaces such as Docker makes them.

use std::{
    net::UdpSocket,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use dtm_tests::daemon::binary;
use xtask::host::{CgroupWorld, Host, LinkStatistics, eventually};

/// How long anything may take that is not timed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Datagrams of each side of an exchange, and their size.
const DATAGRAMS: &str = "1000";
const SIZE: &str = "400";

/// Attaching waits for the whole machine: two at a time would be in each other's way.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits until no other test needs the machine.
pub(crate) fn take_turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host end on a bridge, its other end in a namespace of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// Tells pairs apart, from 1.
    pub(crate) number: u8,
    /// Index of the host end.
    pub(crate) host_end: u32,
}

/// Without IPv6, without multicast routers to be looked for and with fixed neighbours, nothing moves there that nobody sent.
const MAKE_PAIR: &str = "
    number=$1
    ip netns add peer$number
    echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
    ip netns exec peer$number sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
    ip link add br$number address 02:00:00:00:01:$number type bridge mcast_snooping 0
    ip address add 10.9.$number.1/24 dev br$number
    ip link set br$number up
    ip link add host$number type veth peer name eth0 address 02:00:00:00:02:$number netns peer$number
    ip -n peer$number address add 10.9.$number.2/24 dev eth0
    ip -n peer$number link set eth0 up
    ip -n peer$number neighbour add 10.9.$number.1 lladdr 02:00:00:00:01:$number nud permanent dev eth0
    ip neighbour add 10.9.$number.2 lladdr 02:00:00:00:02:$number nud permanent dev br$number
    ip link set host$number master br$number up
";

impl Pair {
    /// Makes the pair with this number, from 1 to 9.
    pub(crate) fn make(host: &Host, number: u8) -> Result<Self> {
        host.run("sh", ["-euc", MAKE_PAIR, "pair", &number.to_string()])?;
        let links = host.links()?;
        let name = format!("host{number}");
        let host_end = links.iter().find(|link| link.name == name);
        let host_end = host_end.with_context(|| format!("there is no {name}"))?.ifindex;
        Ok(Self { number, host_end })
    }

    /// Sends datagrams both ways.
    pub(crate) fn exchange(self, host: &Host) -> Result<()> {
        let Self { number, .. } = self;
        let near = format!("10.9.{number}.1:9");
        // Nobody reads: what its buffer does not take is lost behind the interface.
        let socket = host.network()?.enter(|| UdpSocket::bind(&near))?;
        let socket = socket.with_context(|| format!("listen on {near}"))?;
        let traffic = binary("traffic")?;
        let traffic = traffic.to_str().context("a path that is UTF-8")?;
        let far = format!("peer{number}");
        host.run(
            "ip",
            ["netns", "exec", &far, traffic, "udp-send", &near, DATAGRAMS, SIZE],
        )?;
        for _datagram in 0..500 {
            socket
                .send_to(&[b'u'; 300], format!("10.9.{number}.2:9"))
                .context("send a datagram")?;
        }
        Ok(())
    }

    /// What the kernel has counted, once nothing moves any more.
    pub(crate) fn kernel(self, host: &Host) -> Result<LinkStatistics> {
        let mut before = host.link_statistics(self.host_end)?;
        eventually(PATIENCE, "the traffic ends", || {
            let now = host.link_statistics(self.host_end)?;
            Ok((std::mem::replace(&mut before, now) == now).then_some(now))
        })
    }

    /// Removes it.
    pub(crate) fn remove(self, host: &Host) -> Result<()> {
        host.run("ip", ["link", "delete", &format!("host{}", self.number)])
            .map(drop)
    }
}

/// A host with one pair, and the turn to use it.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) pair: Pair,
    pub(crate) turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Makes it.
    pub(crate) fn new() -> Result<Self> {
        let turn = take_turn();
        let host = Host::new(CgroupWorld::V2)?;
        let pair = Pair::make(&host, 1)?;
        Ok(Self { host, pair, turn })
    }
}
