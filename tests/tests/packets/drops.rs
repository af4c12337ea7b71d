//! The drops program: the kernel frees the packet of every test run with `kfree_skb`, which is a drop like any other.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use dtm_common::drops::{Address, DROP_RECEIVE, DROP_TRANSMIT, DropKey, DropTally};
use dtm_daemon::bpf::{Kernel, Limits};
use dtm_tests::packets::PacketBuilder;
use xtask::host::eventually;

use crate::{
    classifiers::{Gso, IFINDEX, PLAIN, context},
    groups::{Group, Hierarchy, own_name},
    namespace::Namespace,
};

/// The container's number, and its addresses: nobody else on this machine sends from or to them.
const OWNER: u32 = 4711;
const V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 78);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 2);

struct Drops {
    kernel: Kernel,
}

impl Drops {
    fn load() -> Self {
        let mut kernel = Kernel::load(
            Path::new("/sys/kernel/btf/vmlinux"),
            Limits {
                slots: 8,
                // What they count is no drop.
                scopes: false,
                pairs: 0,
                ..Limits::default()
            },
        )
        .expect("the kernel side loads: this suite needs root");
        assert!(
            kernel.drops.is_some(),
            "this kernel refuses the tracepoint kfree_skb"
        );
        for address in [IpAddr::from(V4), IpAddr::from(V6)] {
            let octets = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            kernel
                .owners
                .set_address(Address(octets), Some(OWNER))
                .expect("room for two");
        }
        Self { kernel }
    }

    /// What the container has lost so far, with its direction and the reason's name.
    fn lost(&self) -> Vec<(u32, String, DropTally)> {
        let map = self.kernel.drops.as_ref().expect("checked when loaded");
        let entries = map.read().expect("the map can be read");
        let own = entries.into_iter().filter(|(key, _)| key.owner == OWNER);
        let mut lost: Vec<_> = own
            .map(
                |(
                    DropKey {
                        reason, direction, ..
                    },
                    tally,
                )| { (direction, self.kernel.reasons.name(reason).to_string(), tally) },
            )
            .collect();
        lost.sort_by_key(|(direction, ..)| *direction);
        lost
    }

    /// Has the kernel drop `packet`.
    fn drop(&mut self, packet: &PacketBuilder, gso: Gso) {
        let program: &mut SchedClassifier = self
            .kernel
            .program_mut("dtm_transmit")
            .expect("the program is in the object")
            .try_into()
            .expect("it is a classifier");
        let options = TestRunOptions {
            data_in: Some(&packet.build()),
            ctx_in: Some(&context(gso, IFINDEX)),
            ..TestRunOptions::default()
        };
        program.test_run(options).expect("the kernel runs it");
    }
}

fn once(direction: u32, packets: u64, bytes: u64) -> (u32, String, DropTally) {
    (
        direction,
        "not_specified".to_owned(),
        DropTally { packets, bytes },
    )
}

#[test]
fn a_drop_belongs_to_who_sent_it() {
    let mut drops = Drops::load();
    drops.drop(
        &PacketBuilder::ethernet()
            .ipv4_between(V4, PEER_V4)
            .udp(9)
            .payload(58),
        PLAIN,
    );
    assert_eq!(drops.lost(), [once(DROP_TRANSMIT, 1, 100)]);
    drops.drop(
        &PacketBuilder::ethernet()
            .ipv6_between(V6, PEER_V6)
            .udp(9)
            .payload(38),
        PLAIN,
    );
    assert_eq!(drops.lost(), [once(DROP_TRANSMIT, 2, 200)]);
}

#[test]
fn a_drop_from_elsewhere_belongs_to_whom_it_was_for() {
    let mut drops = Drops::load();
    drops.drop(
        &PacketBuilder::ethernet()
            .ipv4_between(PEER_V4, V4)
            .udp(9)
            .payload(58),
        PLAIN,
    );
    assert_eq!(drops.lost(), [once(DROP_RECEIVE, 1, 100)]);
    drops.drop(
        &PacketBuilder::ethernet()
            .ipv6_between(PEER_V6, V6)
            .extension(0, 0)
            .udp(9)
            .payload(30),
        PLAIN,
    );
    assert_eq!(drops.lost(), [once(DROP_RECEIVE, 2, 200)]);
}

#[test]
fn a_dropped_buffer_is_as_many_packets_as_segments() {
    let mut drops = Drops::load();
    let packet = PacketBuilder::ethernet()
        .ipv4_between(V4, PEER_V4)
        .tcp()
        .payload(2946);
    drops.drop(&packet, Gso { segs: 3, size: 1000 });
    assert_eq!(drops.lost(), [once(DROP_TRANSMIT, 3, 3000)]);
}

#[test]
fn what_has_no_ip_header_to_read_belongs_to_nobody() {
    let mut drops = Drops::load();
    drops.drop(&PacketBuilder::ethernet().arp(), PLAIN);
    drops.drop(
        &PacketBuilder::ethernet().vlan(7).ipv4_between(V4, PEER_V4).udp(9),
        PLAIN,
    );
    drops.drop(&PacketBuilder::ethernet().ipv4().udp(9), PLAIN);
    drops.drop(&PacketBuilder::ethernet().payload(1000), PLAIN);
    assert_eq!(drops.lost(), []);
}

/// What a bridge floods to everybody, such as its own reports of IGMP: who has not joined the group loses nothing.
#[test]
fn multicast_that_nobody_asked_for_is_no_drop() {
    const THERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
    let (here, there) = (Namespace::new(), Namespace::new());
    here.add_pair("eth0", "peer0", &there);
    here.add_address("eth0", V4);
    there.add_address("peer0", THERE);
    let received = || there.enter(|| counter("Ip", "InReceives"));
    let drops = Drops::load();
    let before = received();
    here.enter(|| {
        let socket = UdpSocket::bind((V4, 0)).expect("bind");
        for group in ["224.0.0.251:5353", "239.1.2.3:9"] {
            for _ in 0..20 {
                socket.send_to(&[0; 100], group).expect("send");
            }
        }
        // What comes the same way to a port where nobody listens is a drop.
        for _ in 0..3 {
            // Each is told that nobody does, and could not send again.
            let socket = UdpSocket::bind((V4, 0)).expect("bind");
            socket.send_to(&[0; 100], (THERE, 9)).expect("send");
        }
    });
    eventually(Duration::from_secs(10), "all of it is there", || {
        Ok((received() - before >= 40).then_some(()))
    })
    .expect("the pair is up");
    let mut lost = Vec::new();
    let waited = eventually(Duration::from_secs(10), "what nobody listens to", || {
        lost = drops.lost();
        let sums = lost
            .iter()
            .map(|(direction, reason, tally)| (*direction, reason.as_str(), tally.packets));
        Ok(sums.eq([(DROP_TRANSMIT, "no_socket", 3)]).then_some(()))
    });
    assert!(waited.is_ok(), "{lost:?}");
}

/// A namespace that is the daemon's own to the kernel side, with a pair to nobody, and a group in which sockets are the
/// container's.
struct OnHost {
    drops: Drops,
    namespace: Namespace,
    hierarchy: Hierarchy,
    inner: Group,
    _outer: Group,
    _beyond: Namespace,
}

impl OnHost {
    fn new(test: &str) -> Self {
        let (namespace, beyond) = (Namespace::new(), Namespace::new());
        namespace.add_pair("eth0", "peer0", &beyond);
        namespace.switch_on("lo");
        namespace.add_address("eth0", Ipv4Addr::new(198, 51, 100, 1));
        let mut drops = namespace.enter(Drops::load);
        let hierarchy = Hierarchy::unified();
        let name = own_name(test);
        let outer = hierarchy.make(&name);
        let inner = hierarchy.make(&format!("{name}/inner"));
        let id = outer.open().metadata().expect("it is there").ino();
        drops
            .kernel
            .owners
            .set_group(id, Some(OWNER))
            .expect("room for one");
        Self {
            drops,
            namespace,
            hierarchy,
            inner,
            _outer: outer,
            _beyond: beyond,
        }
    }

    /// A socket of the container's.
    fn socket(&self) -> UdpSocket {
        let open = || UdpSocket::bind("0.0.0.0:0").expect("bind");
        // A group is a process', with all of its threads.
        self.inner.hold(&self.hierarchy, || self.namespace.enter(open))
    }
}

/// What the kernel itself counts of a protocol in the namespace that this thread is in.
fn counter(protocol: &str, name: &str) -> u64 {
    let counters = fs::read_to_string("/proc/thread-self/net/snmp").expect("proc is mounted");
    let table = format!("{protocol}: ");
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix(&table));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut both = names.split(' ').zip(values.split(' '));
    let count = both.find(|(known, _value)| *known == name);
    count.expect("it is counted").1.parse().expect("a number")
}

/// The kernel's version, to say what it must have.
fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("proc is mounted");
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || {
        numbers
            .next()
            .and_then(|number| number.parse().ok())
            .expect("a number")
    };
    (number(), number())
}

#[test]
fn what_a_socket_of_a_group_cannot_send_is_the_groups() {
    let host = OnHost::new("sender");
    host.namespace.enter(|| {
        for (setting, value) in [("mcast_solicit", "1"), ("retrans_time_ms", "20")] {
            let path = format!("/proc/sys/net/ipv4/neigh/eth0/{setting}");
            fs::write(path, value).expect("ask for a neighbour once");
        }
    });
    let socket = host.socket();
    // Nobody has the address: what waits for it is thrown away.
    for _ in 0..5 {
        socket.send_to(&[0; 58], "198.51.100.9:9").expect("send");
    }
    eventually(
        Duration::from_secs(10),
        "five lost packets of the socket's",
        || {
            let lost = host.drops.lost();
            let sums = lost
                .iter()
                .map(|(direction, _reason, tally)| (*direction, tally.packets));
            Ok((sums.collect::<Vec<_>>() == [(DROP_TRANSMIT, 5)]).then_some(()))
        },
    )
    .expect("they are the container's");
}

#[test]
fn what_a_socket_of_a_group_does_not_read_is_the_groups() {
    let host = OnHost::new("receiver");
    let socket = host.socket();
    let port = socket.local_addr().expect("it is bound").port();
    let overflows = host.namespace.enter(|| {
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
        for _ in 0..2_000 {
            sender.send_to(&[0; 1000], ("127.0.0.1", port)).expect("send");
        }
        counter("Udp", "RcvbufErrors")
    });
    assert!(overflows > 0, "the buffer is too small for all of them");
    let lost: Vec<_> = host.drops.lost();
    let lost: Vec<_> = lost
        .iter()
        .map(|(direction, reason, tally)| (*direction, reason.as_str(), tally.packets))
        .collect();
    // Kernels before that say nothing of the socket.
    if version() >= (6, 11) {
        assert_eq!(lost, [(DROP_RECEIVE, "socket_rcvbuff", overflows)]);
    } else {
        assert_eq!(lost, []);
    }
}
