extern crate std;

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::{
    Family, Fragment, Link, Packet as _, SegmentHeaders, Segmentation, Transport, Wire, addresses, ethernet,
    network, network_from_version, segment_header_length, segment_header_length_from_ip, wire,
};
use crate::drops::Address;

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
/// 198.51.100.1 to 198.51.100.2, 20 bytes, TCP.
const IPV4: [u8; 20] = [
    0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2,
];
/// `2001:db8::1` to `2001:db8::2`, TCP.
const IPV6: [u8; 40] = [
    0x60, 0, 0, 0, 0, 20, 6, 64, //
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, //
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
];
const TCP: [u8; 20] = [
    0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
];

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// `header` with the bytes at `at` replaced.
fn with<const N: usize>(mut header: [u8; N], at: usize, bytes: &[u8]) -> [u8; N] {
    header[at..at + bytes.len()].copy_from_slice(bytes);
    header
}

fn transport(packet: &[u8]) -> Option<Transport> {
    network_from_version(packet, 0)?.transport(packet)
}

#[test]
fn tags_are_looked_through_up_to_the_third() {
    let tag = [0x81, 0, 0, 7];
    let frame = |tags: usize| join(&[&MACS, &tag.repeat(tags), &[8, 0]]);
    for tags in 0..=3 {
        let expected = Link {
            ethertype: 0x0800,
            offset: 14 + 4 * tags,
            tags: tags as u8,
        };
        assert_eq!(ethernet(&frame(tags)[..], 0), Some(expected), "{tags} tags");
    }
    assert_eq!(
        ethernet(&frame(4)[..], 0),
        Some(Link {
            ethertype: 0x8100,
            offset: 26,
            tags: 3
        })
    );
}

#[test]
fn every_kind_of_tag_is_one() {
    for [high, low] in [[0x81, 0], [0x88, 0xa8], [0x91, 0]] {
        let frame = join(&[&MACS, &[high, low, 0, 7, 0x86, 0xdd]]);
        assert_eq!(
            ethernet(&frame[..], 0),
            Some(Link {
                ethertype: 0x86dd,
                offset: 18,
                tags: 1
            })
        );
    }
}

#[test]
fn addresses_of_both_families_need_no_ethertype() {
    let v4 = (Address::v4([198, 51, 100, 1]), Address::v4([198, 51, 100, 2]));
    assert_eq!(addresses(&IPV4[..]), Some(v4));
    let v6 = |last| Address([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    assert_eq!(addresses(&IPV6[..]), Some((v6(1), v6(2))));
}

#[test]
fn addresses_survive_a_chain_that_is_cut_off() {
    let packet = join(&[&with(IPV6, 6, &[0]), &[6, 200]]);
    assert!(addresses(&packet[..]).is_some());
    assert_eq!(transport(&packet), None);
}

#[test]
fn the_ethertype_and_the_version_must_agree() {
    assert_eq!(network(&IPV6[..], 0x0800, 0), None);
    assert_eq!(network(&join(&[&IPV4, &TCP])[..], 0x86dd, 0), None);
    assert_eq!(network(&IPV4[..], 0x0806, 0), None);
}

#[test]
fn an_ipv4_header_of_less_than_five_words_is_garbage() {
    for words in 0..5 {
        assert_eq!(
            addresses(&with(IPV4, 0, &[0x40 | words])[..]),
            None,
            "{words} words"
        );
    }
}

#[test]
fn ipv4_options_are_skipped_and_must_be_there() {
    let packet = join(&[&with(IPV4, 0, &[0x47]), &[1; 8], &TCP]);
    let expected = Transport {
        protocol: 6,
        offset: 28,
        fragment: Fragment::No,
    };
    assert_eq!(transport(&packet), Some(expected));
    assert_eq!(transport(&packet[..28]), Some(expected));
    assert_eq!(transport(&packet[..27]), None);
}

#[test]
fn ipv4_fragments_are_told_apart() {
    for (field, fragment) in [
        ([0x40, 0], Fragment::No),
        ([0x20, 0], Fragment::First),
        ([0x20, 1], Fragment::Later),
        ([0, 1], Fragment::Later),
        ([0x1f, 0xff], Fragment::Later),
    ] {
        let found = transport(&with(IPV4, 6, &field)).map(|transport| transport.fragment);
        assert_eq!(found, Some(fragment), "{field:?}");
    }
}

#[test]
fn every_ipv6_extension_is_looked_through() {
    for (protocol, units, length) in [
        (0_u8, 1_u8, 16_usize),
        (43, 0, 8),
        (60, 2, 24),
        (51, 4, 24),
        (135, 0, 8),
        (139, 3, 32),
        (140, 0, 8),
    ] {
        let mut extension = vec![0; length];
        extension[..2].copy_from_slice(&[17, units]);
        let packet = join(&[&with(IPV6, 6, &[protocol]), &extension]);
        let expected = Transport {
            protocol: 17,
            offset: 40 + length,
            fragment: Fragment::No,
        };
        assert_eq!(transport(&packet), Some(expected), "extension {protocol}");
    }
}

#[test]
fn ipv6_fragments_are_told_apart_and_later_ones_end_the_chain() {
    for (field, next, fragment) in [
        ([0, 0], 6, Fragment::No),
        ([0, 1], 6, Fragment::First),
        ([0, 8], 60, Fragment::Later),
        ([0, 9], 60, Fragment::Later),
    ] {
        let packet = join(&[&with(IPV6, 6, &[44]), &[next, 0], &field, &[0; 4]]);
        let expected = Transport {
            protocol: next,
            offset: 48,
            fragment,
        };
        assert_eq!(transport(&packet), Some(expected), "{field:?}");
    }
}

#[test]
fn encryption_and_no_next_header_end_the_chain() {
    for protocol in [50, 59, 58, 200] {
        let packet = join(&[&with(IPV6, 6, &[60]), &[protocol, 0, 0, 0, 0, 0, 0, 0]]);
        let expected = Transport {
            protocol,
            offset: 48,
            fragment: Fragment::No,
        };
        assert_eq!(transport(&packet), Some(expected));
    }
}

#[test]
fn nine_extensions_are_too_many() {
    let chain = |count: usize| {
        let mut extensions = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count);
        extensions[(count - 1) * 8] = 6;
        join(&[&with(IPV6, 6, &[60]), &extensions])
    };
    assert_eq!(transport(&chain(8)).map(|transport| transport.offset), Some(104));
    assert_eq!(transport(&chain(9)), None);
}

const fn headers(length: u16) -> SegmentHeaders {
    SegmentHeaders { length, jumbo: 0 }
}

#[test]
fn segment_headers_end_where_the_payload_starts() {
    let tagged = join(&[&MACS, &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x86, 0xdd], &IPV6, &TCP]);
    let options = join(&[&MACS, &[8, 0], &IPV4, &with(TCP, 12, &[0x80]), &[1; 12]]);
    let udp = join(&[
        &MACS,
        &[8, 0],
        &with(IPV4, 9, &[17]),
        &[0, 9, 0, 9, 0, 9, 0, 0],
        &[7],
    ]);
    let sctp = join(&[&MACS, &[8, 0], &with(IPV4, 9, &[132]), &[0; 12]]);
    let routed = join(&[
        &MACS,
        &[0x86, 0xdd],
        &with(IPV6, 6, &[43]),
        &[6, 0],
        &[0; 6],
        &TCP,
    ]);
    for (name, packet, length) in [
        ("two tags, IPv6, TCP", &tagged, 14 + 8 + 40 + 20),
        ("IPv4, TCP with options", &options, 14 + 20 + 32),
        ("IPv4, UDP", &udp, 14 + 20 + 8),
        ("IPv4, SCTP", &sctp, 14 + 20 + 12),
        ("IPv6, routing header, TCP", &routed, 14 + 40 + 8 + 20),
    ] {
        assert_eq!(
            segment_header_length(&packet[..]),
            Some(headers(length)),
            "{name}"
        );
    }
}

#[test]
fn tunnels_are_looked_through_to_the_inner_transport() {
    let outer = |protocol| join(&[&MACS, &[8, 0], &with(IPV4, 9, &[protocol])]);
    let ipv4 = join(&[&IPV4, &TCP]);
    let ipv6 = join(&[&IPV6, &TCP]);
    let frame = join(&[&MACS, &[8, 0], &ipv4]);
    let vxlan = |port: u16, flags: u8| {
        let udp = [[0xc0, 0], port.to_be_bytes(), [0, 0], [0, 0]].concat();
        join(&[&outer(17), &udp, &[flags, 0, 0, 0, 0, 0, 1, 0], &frame])
    };
    for (name, packet, length) in [
        ("IPIP", join(&[&outer(4), &ipv4]), 34 + 40),
        ("6in4", join(&[&outer(41), &ipv6]), 34 + 60),
        ("GRE", join(&[&outer(47), &[0, 0, 8, 0], &ipv4]), 34 + 4 + 40),
        (
            "GRE, checksum, key and sequence",
            join(&[&outer(47), &[0xb0, 0, 0x86, 0xdd], &[0; 12], &ipv6]),
            34 + 16 + 60,
        ),
        (
            "GRE with Ethernet and key",
            join(&[&outer(47), &[0x20, 0, 0x65, 0x58], &[0; 4], &frame]),
            34 + 8 + 54,
        ),
        ("VXLAN", vxlan(4789, 8), 34 + 16 + 54),
        ("VXLAN on Linux' port", vxlan(8472, 8), 34 + 16 + 54),
        ("the port without an identifier", vxlan(4789, 0), 34 + 8),
        ("another port", vxlan(4790, 8), 34 + 8),
    ] {
        assert_eq!(
            segment_header_length(&packet[..]),
            Some(headers(length)),
            "{name}"
        );
    }
}

#[test]
fn without_ethernet_the_headers_are_those_from_ip_on() {
    let options = join(&[&IPV4, &with(TCP, 12, &[0x80]), &[1; 12]]);
    let udp = join(&[&with(IPV4, 9, &[17]), &[0, 9, 0, 9, 0, 9, 0, 0], &[7]]);
    let routed = join(&[&with(IPV6, 6, &[43]), &[6, 0], &[0; 6], &TCP]);
    let tunnel = join(&[&with(IPV4, 9, &[41]), &IPV6, &TCP]);
    let jumbo = join(&[
        &with(IPV6, 4, &[0, 0, 0]),
        &[6, 0, 0xc2, 4, 0, 1, 0x11, 0x70],
        &TCP,
    ]);
    for (name, packet, expected) in [
        ("IPv4, TCP", &join(&[&IPV4, &TCP]), headers(20 + 20)),
        ("IPv6, TCP", &join(&[&IPV6, &TCP]), headers(40 + 20)),
        ("IPv4, TCP with options", &options, headers(20 + 32)),
        ("IPv4, UDP", &udp, headers(20 + 8)),
        ("IPv6, routing header, TCP", &routed, headers(40 + 8 + 20)),
        ("6in4", &tunnel, headers(20 + 40 + 20)),
        ("BIG TCP", &jumbo, SegmentHeaders { length: 60, jumbo: 8 }),
    ] {
        assert_eq!(
            segment_header_length_from_ip(&packet[..]),
            Some(expected),
            "{name}"
        );
    }
    for (name, packet) in [
        ("an Ethernet header", join(&[&MACS, &[8, 0], &IPV4, &TCP])),
        ("ICMP", join(&[&with(IPV4, 9, &[1]), &TCP])),
        ("a fragment", join(&[&with(IPV4, 6, &[0x20, 0]), &TCP])),
        ("no header", join(&[&IPV4[..19]])),
        ("version 5", join(&[&with(IPV4, 0, &[0x55]), &TCP])),
    ] {
        assert_eq!(segment_header_length_from_ip(&packet[..]), None, "{name}");
    }
}

#[test]
fn what_no_kernel_segments_has_no_segment_headers() {
    let ethernet = join(&[&MACS, &[8, 0]]);
    for (name, packet) in [
        ("a fragment", join(&[&ethernet, &with(IPV4, 6, &[0x20, 0]), &TCP])),
        ("ICMP", join(&[&ethernet, &with(IPV4, 9, &[1]), &TCP])),
        ("ARP", join(&[&MACS, &[8, 6], &[0; 28]])),
        (
            "TCP of four words",
            join(&[&ethernet, &IPV4, &with(TCP, 12, &[0x40])]),
        ),
        (
            "TCP options cut off",
            join(&[&ethernet, &IPV4, &with(TCP, 12, &[0x60])]),
        ),
        (
            "GRE with routing",
            join(&[&ethernet, &with(IPV4, 9, &[47]), &[0x40, 0, 8, 0], &IPV4, &TCP]),
        ),
        (
            "PPTP",
            join(&[
                &ethernet,
                &with(IPV4, 9, &[47]),
                &[0x20, 1, 8, 0],
                &[0; 4],
                &IPV4,
                &TCP,
            ]),
        ),
    ] {
        assert_eq!(segment_header_length(&packet[..]), None, "{name}");
    }
}

#[test]
fn the_jumbo_option_is_in_the_buffer_and_on_no_wire() {
    let jumbo = [6, 0, 0xc2, 4, 0, 1, 0x11, 0x70];
    let big = with(IPV6, 4, &[0, 0, 0]);
    let packet = |ip: &[u8], option: &[u8]| join(&[&MACS, &[0x86, 0xdd], ip, option, &TCP]);
    assert_eq!(
        segment_header_length(&packet(&big, &jumbo)[..]),
        Some(SegmentHeaders { length: 74, jumbo: 8 })
    );
    assert_eq!(
        segment_header_length(&packet(&with(IPV6, 6, &[0]), &jumbo)[..]),
        Some(headers(82))
    );
    assert_eq!(
        segment_header_length(&packet(&big, &with(jumbo, 2, &[1]))[..]),
        Some(headers(82))
    );
}

fn segmentation(gso_segs: u32, gso_size: u32) -> Segmentation {
    Segmentation {
        gso_segs,
        gso_size,
        tag_in_metadata: false,
    }
}

#[test]
fn a_plain_packet_is_one_on_the_wire() {
    for gso_segs in [0, 1, 7] {
        let found = wire(1514, segmentation(gso_segs, 0), Some(headers(54)));
        assert_eq!(
            found,
            Wire {
                packets: 1,
                bytes: 1514
            }
        );
    }
}

#[test]
fn each_segment_repeats_the_headers() {
    let found = wire(66 + 3 * 1448 + 100, segmentation(4, 1448), Some(headers(66)));
    assert_eq!(
        found,
        Wire {
            packets: 4,
            bytes: 4 * 66 + 3 * 1448 + 100
        }
    );
}

#[test]
fn uncounted_segments_are_as_many_as_the_payload_needs() {
    let packets = |payload: u32| wire(66 + payload, segmentation(0, 1000), Some(headers(66))).packets;
    assert_eq!(
        [0_u32, 1, 1000, 1001, 2000, 2001].map(packets),
        [1, 1, 1, 2, 2, 3]
    );
}

#[test]
fn segments_of_different_sizes_are_counted_by_the_kernel_only() {
    let found = wire(46 + 500, segmentation(3, 0xffff), Some(headers(46)));
    assert_eq!(
        found,
        Wire {
            packets: 3,
            bytes: 46 + 500 + 2 * 46
        }
    );
    let uncounted = wire(546, segmentation(0, 0xffff), Some(headers(46)));
    assert_eq!(
        uncounted,
        Wire {
            packets: 1,
            bytes: 546
        }
    );
}

#[test]
fn a_tag_in_metadata_is_in_every_segment() {
    let tagged = |gso_segs, gso_size| Segmentation {
        gso_segs,
        gso_size,
        tag_in_metadata: true,
    };
    assert_eq!(
        wire(60, tagged(0, 0), None),
        Wire {
            packets: 1,
            bytes: 64
        }
    );
    let found = wire(54 + 2000, tagged(2, 1000), Some(headers(54)));
    assert_eq!(
        found,
        Wire {
            packets: 2,
            bytes: 2 * (54 + 4 + 1000)
        }
    );
}

#[test]
fn the_jumbo_option_is_taken_off_once() {
    let big = Some(SegmentHeaders { length: 74, jumbo: 8 });
    let expected = Wire {
        packets: 100,
        bytes: 100 * (74 + 1000),
    };
    assert_eq!(wire(74 + 8 + 100_000, segmentation(100, 1000), big), expected);
    assert_eq!(wire(74 + 8 + 100_000, segmentation(0, 1000), big), expected);
}

#[test]
fn unknown_headers_are_not_repeated() {
    assert_eq!(
        wire(5000, segmentation(4, 1400), None),
        Wire {
            packets: 4,
            bytes: 5000
        }
    );
}

/// Bytes that get past the first comparisons often enough to reach the last ones.
fn plausible_bytes() -> impl Strategy<Value = Vec<u8>> {
    let protocol = prop::sample::select(vec![
        0, 4, 6, 17, 41, 43, 44, 47, 50, 51, 59, 60, 132, 135, 139, 140,
    ]);
    let ethertype = prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x6558]);
    let piece = prop_oneof![
        ethertype.prop_map(|ethertype| join(&[&MACS, &ethertype.to_be_bytes()])),
        (0_u16..9).prop_map(|tag| join(&[&[0, 1, 0x81, 0], &tag.to_be_bytes(), &[8, 0]])),
        (protocol.clone(), 4..8_u8).prop_map(|(protocol, words)| with(
            with(IPV4, 9, &[protocol]),
            0,
            &[0x40 | words]
        )
        .to_vec()),
        (protocol.clone(), any::<bool>()).prop_map(|(protocol, jumbo)| {
            with(IPV6, 4, &[0, if jumbo { 0 } else { 9 }, protocol]).to_vec()
        }),
        (protocol.clone(), 0..3_u8, any::<[u8; 2]>()).prop_map(|(protocol, units, field)| vec![
            protocol,
            units,
            0,
            field[0] & 1,
            0,
            0,
            0,
            field[1]
        ]),
        (0..8_u8).prop_map(|flags| join(&[&[flags << 4, 0, 0x65, 0x58]])),
        Just(vec![0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0]),
        (4..16_u8).prop_map(|words| with(TCP, 12, &[words << 4]).to_vec()),
        prop::collection::vec(any::<u8>(), 0..16),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![plausible_bytes(), prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn offsets_never_leave_the_packet(bytes in any_bytes(), start in 0_usize..64) {
        let packet = &bytes[..];
        if let Some(link) = ethernet(packet, start) {
            prop_assert!(link.offset <= packet.len());
            if let Some(network) = network(packet, link.ethertype, link.offset) {
                prop_assert!(network.offset < packet.len());
                if let Some(transport) = network.transport(packet) {
                    prop_assert!(transport.offset <= packet.len());
                }
            }
        }
        if let Some(headers) = segment_header_length(packet) {
            prop_assert!(usize::from(headers.length) + usize::from(headers.jumbo) <= packet.len());
        }
        if let Some(headers) = segment_header_length_from_ip(packet) {
            prop_assert!(usize::from(headers.length) + usize::from(headers.jumbo) <= packet.len());
        }
    }

    #[test]
    fn a_packet_cut_short_gives_the_same_answer_or_none(bytes in any_bytes(), kept in 0_usize..200) {
        let whole = &bytes[..];
        let cut = &bytes[..kept.min(bytes.len())];
        let same_or_none = |cut_is_none: bool, same: bool| cut_is_none || same;
        let link = ethernet(cut, 0);
        prop_assert!(same_or_none(link.is_none(), link == ethernet(whole, 0)));
        let found = addresses(cut);
        prop_assert!(same_or_none(found.is_none(), found == addresses(whole)));
        let found = transport(cut);
        prop_assert!(same_or_none(found.is_none(), found == transport(whole)));
        let found = segment_header_length(cut);
        prop_assert!(same_or_none(found.is_none(), found == segment_header_length(whole)));
        let found = segment_header_length_from_ip(cut);
        prop_assert!(same_or_none(found.is_none(), found == segment_header_length_from_ip(whole)));
    }

    #[test]
    fn an_ethernet_header_before_them_is_14_bytes_more_of_headers(bytes in any_bytes()) {
        let ethertype = match bytes.first().map(|first| first >> 4) {
            Some(4) => [8, 0],
            Some(6) => [0x86, 0xdd],
            _ => return Ok(()),
        };
        let frame = join(&[&MACS, &ethertype, &bytes]);
        // The frame has a header more, and may have one too many.
        if let Some(SegmentHeaders { length, jumbo }) = segment_header_length(&frame[..]) {
            let expected = SegmentHeaders { length: length - 14, jumbo };
            prop_assert_eq!(segment_header_length_from_ip(&bytes[..]), Some(expected));
        }
    }

    #[test]
    fn both_ways_to_the_network_layer_agree(bytes in any_bytes()) {
        let packet = &bytes[..];
        if let Some(found) = network_from_version(packet, 0) {
            let ethertype = if found.family == Family::Ipv4 { 0x0800 } else { 0x86dd };
            prop_assert_eq!(network(packet, ethertype, 0), Some(found));
        }
    }

    #[test]
    fn wire_arithmetic_holds_for_any_number(
        len: u32,
        gso_segs: u32,
        gso_size: u32,
        tag_in_metadata: bool,
        headers: Option<(u16, bool)>,
    ) {
        let headers =
            headers.map(|(length, jumbo)| SegmentHeaders { length, jumbo: if jumbo { 8 } else { 0 } });
        let found = wire(len, Segmentation { gso_segs, gso_size, tag_in_metadata }, headers);
        prop_assert!(found.packets >= 1);
        prop_assert!(found.bytes + 8 >= u64::from(len));
    }

    #[test]
    fn a_slice_reads_its_own_bytes_and_no_others(bytes in prop::collection::vec(any::<u8>(), 0..40), offset: usize) {
        for offset in [offset, offset % 48] {
            let expected = offset.checked_add(4).and_then(|end| bytes.get(offset..end));
            let read = bytes[..].read::<4>(offset);
            prop_assert_eq!(read.as_ref().map(|read| &read[..]), expected);
        }
    }
}
