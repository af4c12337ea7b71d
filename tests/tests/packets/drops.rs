//! The drops program: the kernel frees the packet of every test run with `kfree_skb`, which is a drop like any other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use dtm_common::drops::{Address, DROP_RECEIVE, DROP_TRANSMIT, DropKey, DropTally};
use dtm_daemon::bpf::{Kernel, Limits};
use dtm_tests::packets::PacketBuilder;

use crate::classifiers::{Gso, IFINDEX, PLAIN, context};

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
        let mut kernel = Kernel::load(Path::new("/sys/kernel/btf/vmlinux"), Limits { slots: 8 })
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
                .set_address_owner(Address(octets), Some(OWNER))
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
