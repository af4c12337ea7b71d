//! GSO and GRO buffers: as many packets as segments, each with its headers.

use dtm_common::{errors::ERROR_UNPARSED_SEGMENTS, traffic::Tally};
use dtm_tests::packets::PacketBuilder;

use crate::{
    banks::Growth,
    classifiers::{Classifiers, Gso, PROGRAMS, SLOT, shortest},
};

/// `GSO_BY_FRAGS`.
const BY_FRAGMENTS: u32 = 0xffff;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) packet: PacketBuilder,
    pub(crate) gso: Gso,
    /// Bytes of the buffer, packets, bytes on the wire.
    expected: (u64, u64, u64),
}

impl Case {
    pub(crate) fn tally(&self) -> Tally {
        tally(self.expected)
    }
}

fn case(
    name: &'static str,
    packet: PacketBuilder,
    (segs, size): (u32, u32),
    expected: (u64, u64, u64),
) -> Case {
    Case {
        name,
        packet,
        gso: Gso { segs, size },
        expected,
    }
}

fn ethernet() -> PacketBuilder {
    PacketBuilder::ethernet()
}

/// 2,500 bytes: three segments of 1,000, 1,000 and 500.
fn full(packet: PacketBuilder) -> PacketBuilder {
    packet.payload(2500)
}

pub(crate) fn cases() -> impl Iterator<Item = Case> {
    headers().into_iter().chain(counts()).chain(tunnels())
}

/// What may be before the payload of one packet.
fn headers() -> Vec<Case> {
    vec![
        case(
            "IPv4, TCP",
            full(ethernet().ipv4().tcp()),
            (3, 1000),
            (2554, 3, 2554 + 2 * 54),
        ),
        case(
            "IPv4, TCP with timestamps",
            full(ethernet().ipv4().tcp().options(3)),
            (3, 1000),
            (2566, 3, 2566 + 2 * 66),
        ),
        case(
            "IPv4 with options, TCP",
            full(ethernet().ipv4().options(2).tcp()),
            (3, 1000),
            (2562, 3, 2562 + 2 * 62),
        ),
        case(
            "IPv6, TCP",
            full(ethernet().ipv6().tcp()),
            (3, 1000),
            (2574, 3, 2574 + 2 * 74),
        ),
        case(
            "IPv4, UDP",
            full(ethernet().ipv4().udp(9)),
            (3, 1000),
            (2542, 3, 2542 + 2 * 42),
        ),
        case(
            "IPv6, UDP",
            full(ethernet().ipv6().udp(9)),
            (3, 1000),
            (2562, 3, 2562 + 2 * 62),
        ),
        case(
            "VLAN, IPv4, TCP",
            full(ethernet().vlan(7).ipv4().tcp()),
            (3, 1000),
            (2558, 3, 2558 + 2 * 58),
        ),
        case(
            "QinQ, IPv6, TCP",
            full(ethernet().tag(0x88a8, 1).vlan(2).ipv6().tcp()),
            (3, 1000),
            (2582, 3, 2582 + 2 * 82),
        ),
        case(
            "IPv6, routing and destination options, TCP",
            full(ethernet().ipv6().extension(43, 2).extension(60, 0).tcp()),
            (3, 1000),
            (2606, 3, 2606 + 2 * 106),
        ),
        // The option's eight bytes are in the buffer and in no segment.
        case(
            "BIG TCP",
            full(ethernet().ipv6().jumbo().tcp()),
            (3, 1000),
            (2582, 3, 2574 + 2 * 74),
        ),
        case(
            "BIG TCP, not counted",
            full(ethernet().ipv6().jumbo().tcp()),
            (0, 1250),
            (2582, 2, 2574 + 74),
        ),
    ]
}

/// Segments counted by the kernel, by dtm, and not at all.
fn counts() -> Vec<Case> {
    vec![
        case(
            "TCP, segments not counted",
            full(ethernet().ipv4().tcp()),
            (0, 1000),
            (2554, 3, 2554 + 2 * 54),
        ),
        case(
            "TCP, not counted, exactly two",
            ethernet().ipv4().tcp().payload(2000),
            (0, 1000),
            (2054, 2, 2054 + 54),
        ),
        case(
            "TCP, not counted, no payload",
            ethernet().ipv4().tcp(),
            (0, 1000),
            (54, 1, 54),
        ),
        case(
            "UDP, segments not counted",
            full(ethernet().ipv6().udp(9)),
            (0, 1250),
            (2562, 2, 2562 + 62),
        ),
        case(
            "one segment",
            full(ethernet().ipv4().tcp()),
            (1, 2500),
            (2554, 1, 2554),
        ),
        case(
            "SCTP by fragments",
            full(ethernet().ipv4().sctp()),
            (4, BY_FRAGMENTS),
            (2546, 4, 2546 + 3 * 46),
        ),
        case(
            "SCTP by fragments, not counted",
            full(ethernet().ipv4().sctp()),
            (0, BY_FRAGMENTS),
            (2546, 1, 2546),
        ),
        case(
            "most segments there can be",
            full(ethernet().ipv4().udp(9)),
            (65_535, 1),
            (2542, 65_535, 2542 + 65_534 * 42),
        ),
    ]
}

/// Tunnels, whose inner headers are in every segment too.
fn tunnels() -> Vec<Case> {
    vec![
        case(
            "VXLAN over IPv4, inner TCP",
            full(
                ethernet()
                    .ipv4()
                    .udp(4789)
                    .vxlan(42)
                    .inner_ethernet()
                    .ipv4()
                    .tcp(),
            ),
            (3, 1000),
            (2604, 3, 2604 + 2 * 104),
        ),
        case(
            "VXLAN over IPv6 on Linux' port, inner VLAN, IPv6, UDP",
            full(
                ethernet()
                    .ipv6()
                    .udp(8472)
                    .vxlan(42)
                    .inner_ethernet()
                    .vlan(7)
                    .ipv6()
                    .udp(9),
            ),
            (3, 1000),
            // 14 + 40 + 8 + 8 + 14 + 4 + 40 + 8
            (2636, 3, 2636 + 2 * 136),
        ),
        case(
            "IPIP",
            full(ethernet().ipv4().ipv4().tcp()),
            (3, 1000),
            (2574, 3, 2574 + 2 * 74),
        ),
        case(
            "6in4",
            full(ethernet().ipv4().ipv6().tcp()),
            (3, 1000),
            (2594, 3, 2594 + 2 * 94),
        ),
        case(
            "4in6",
            full(ethernet().ipv6().ipv4().tcp()),
            (3, 1000),
            (2594, 3, 2594 + 2 * 94),
        ),
        case(
            "GRE",
            full(ethernet().ipv4().gre(false, false, false).ipv4().tcp()),
            (3, 1000),
            (2578, 3, 2578 + 2 * 78),
        ),
        case(
            "GRE with everything, Ethernet",
            full(
                ethernet()
                    .ipv4()
                    .gre(true, true, true)
                    .inner_ethernet()
                    .ipv6()
                    .tcp(),
            ),
            (3, 1000),
            // 14 + 20 + 16 + 14 + 40 + 20
            (2624, 3, 2624 + 2 * 124),
        ),
    ]
}

fn tally((bytes, packets, wire_bytes): (u64, u64, u64)) -> Tally {
    Tally {
        bytes,
        packets,
        wire_bytes,
    }
}

fn growth(program: &str, expected: (u64, u64, u64)) -> Growth {
    Growth::of(program, SLOT, tally(expected))
}

#[test]
fn each_segment_is_a_packet_with_its_headers() {
    let mut classifiers = Classifiers::with_slot();
    for program in PROGRAMS {
        for Case {
            name,
            packet,
            gso,
            expected,
        } in cases()
        {
            let found = classifiers.run(program, &packet.build(), gso);
            assert_eq!(found, growth(program, expected), "{program}: {name}");
        }
    }
}

#[test]
fn headers_that_cannot_be_found_are_an_error_and_not_repeated() {
    let mut classifiers = Classifiers::with_slot();
    for program in PROGRAMS {
        for (name, packet, bytes) in [
            ("ICMP", ethernet().ipv4().icmp().payload(1000), 1042),
            ("ARP", ethernet().arp(), 42),
            (
                "IPv4 fragment",
                ethernet().ipv4().fragment(0, true).udp(9).payload(1000),
                1042,
            ),
            (
                "IPv6 fragment",
                ethernet().ipv6().fragment(0, true).udp(9).payload(1000),
                1070,
            ),
            (
                "seventeen tags",
                (0..17).fold(ethernet(), PacketBuilder::vlan).ipv4().tcp(),
                122,
            ),
        ] {
            let found = classifiers.run(program, &packet.build(), Gso { segs: 2, size: 500 });
            let expected = growth(program, (bytes, 2, bytes)).and_error(ERROR_UNPARSED_SEGMENTS);
            assert_eq!(found, expected, "{program}: {name}");
        }
    }
}

#[test]
fn a_buffer_cut_within_its_headers_counts_its_segments_and_an_error() {
    let mut classifiers = Classifiers::with_slot();
    for program in PROGRAMS {
        for Case { name, packet, .. } in cases() {
            let whole = packet.build();
            for length in shortest(&whole)..packet.header_length() {
                let found = classifiers.run(program, &whole[..length], Gso { segs: 3, size: 1000 });
                let bytes = length as u64;
                let expected = growth(program, (bytes, 3, bytes)).and_error(ERROR_UNPARSED_SEGMENTS);
                assert_eq!(found, expected, "{program}: {length} bytes of {name}");
            }
        }
    }
}
