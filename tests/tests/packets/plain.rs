//! Packets that are no GSO buffers: one packet, its own bytes, whatever is in it.

use dtm_common::traffic::Tally;
use dtm_tests::packets::PacketBuilder;

use crate::{
    banks::Growth,
    classifiers::{Classifiers, PLAIN, PROGRAMS, SLOT, shortest},
};

/// Name, packet, and how long it is.
pub(crate) fn packets() -> Vec<(&'static str, PacketBuilder, u64)> {
    let ethernet = PacketBuilder::ethernet;
    vec![
        ("IPv4, TCP", ethernet().ipv4().tcp().payload(1460), 1514),
        ("IPv4, UDP", ethernet().ipv4().udp(53).payload(1), 43),
        ("IPv4, ICMP", ethernet().ipv4().icmp().payload(56), 98),
        ("IPv4, SCTP", ethernet().ipv4().sctp().payload(20), 66),
        (
            "IPv4 with options",
            ethernet().ipv4().options(10).udp(53).payload(8),
            90,
        ),
        (
            "IPv4 first fragment",
            ethernet().ipv4().fragment(0, true).udp(53).payload(1472),
            1514,
        ),
        (
            "IPv4 later fragment",
            ethernet().ipv4().fragment(185, false).payload(100),
            134,
        ),
        ("IPv6, TCP", ethernet().ipv6().tcp().payload(1440), 1514),
        (
            "IPv6, hop by hop, UDP",
            ethernet().ipv6().extension(0, 0).udp(53).payload(8),
            78,
        ),
        (
            "IPv6 with every extension",
            ethernet()
                .ipv6()
                .extension(0, 1)
                .extension(60, 0)
                .extension(43, 2)
                .fragment(0, true)
                .authentication(3)
                .extension(135, 0)
                .tcp(),
            // 14 + 40 + 16 + 8 + 24 + 8 + 24 + 8 + 20
            162,
        ),
        (
            "IPv6 later fragment",
            ethernet().ipv6().fragment(185, false).payload(100),
            162,
        ),
        (
            "VLAN, IPv4, UDP",
            ethernet().vlan(7).ipv4().udp(53).payload(100),
            146,
        ),
        ("VLAN, IPv6, TCP", ethernet().vlan(7).ipv6().tcp(), 78),
        (
            "QinQ, IPv4, TCP",
            ethernet().tag(0x88a8, 1).vlan(2).ipv4().tcp(),
            62,
        ),
        (
            "four tags",
            ethernet().vlan(1).vlan(2).vlan(3).vlan(4).ipv4().tcp(),
            70,
        ),
        ("ARP", ethernet().arp(), 42),
        ("an EtherType of nobody", ethernet().payload(46), 60),
        ("an Ethernet header and nothing else", ethernet(), 14),
        (
            "VXLAN",
            ethernet()
                .ipv4()
                .udp(4789)
                .vxlan(42)
                .inner_ethernet()
                .ipv4()
                .tcp(),
            104,
        ),
    ]
}

pub(crate) fn one_packet(bytes: u64) -> Tally {
    Tally {
        bytes,
        packets: 1,
        wire_bytes: bytes,
    }
}

#[test]
fn a_plain_packet_is_one_packet_of_its_own_length() {
    let mut classifiers = Classifiers::with_slot();
    for program in PROGRAMS {
        for (name, packet, length) in packets() {
            let packet = packet.build();
            assert_eq!(packet.len() as u64, length, "{name}");
            let growth = classifiers.run(program, &packet, PLAIN);
            assert_eq!(
                growth,
                Growth::of(program, SLOT, one_packet(length)),
                "{program}: {name}"
            );
        }
    }
}

#[test]
fn a_packet_cut_anywhere_is_one_packet_of_what_is_left() {
    let mut classifiers = Classifiers::with_slot();
    for program in PROGRAMS {
        for (name, packet, _) in packets() {
            let whole = packet.build();
            for length in shortest(&whole)..whole.len().min(180) {
                let growth = classifiers.run(program, &whole[..length], PLAIN);
                let expected = Growth::of(program, SLOT, one_packet(length as u64));
                assert_eq!(growth, expected, "{program}: {length} bytes of {name}");
            }
        }
    }
}

#[test]
fn a_thousand_runs_count_a_thousand_packets() {
    let mut classifiers = Classifiers::with_slot();
    let packet = PacketBuilder::ethernet().ipv4().udp(53).payload(58).build();
    for program in PROGRAMS {
        let growth = classifiers.run_times(program, &packet, PLAIN, 1000);
        let expected = Tally {
            bytes: 100_000,
            packets: 1000,
            wire_bytes: 100_000,
        };
        assert_eq!(growth, Growth::of(program, SLOT, expected));
    }
}
