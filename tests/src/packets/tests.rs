use dtm_common::{
    drops::Address,
    packet::{
        Fragment, SegmentHeaders, Transport, addresses, ethernet, network, network_from_version,
        segment_header_length,
    },
};
use proptest::prelude::*;

use super::{DESTINATION_V4, EXTENSIONS, PacketBuilder, SOURCE_V4};

fn v4(address: std::net::Ipv4Addr) -> Address {
    Address(address.to_ipv6_mapped().octets())
}

fn transport(packet: &PacketBuilder) -> Option<Transport> {
    let frame = &packet.build()[..];
    let link = ethernet(frame, 0)?;
    network(frame, link.ethertype, link.offset)?.transport(frame)
}

#[test]
fn vlan_tagged_ipv6_counts_the_inner_length() {
    let packet = PacketBuilder::ethernet().vlan(7).ipv6().tcp().payload(1000);
    let frame = packet.build();
    assert_eq!(frame.len(), 14 + 4 + 40 + 20 + 1000);
    assert_eq!(frame[12..14], [0x81, 0]);
    assert_eq!(frame[16..18], [0x86, 0xdd]);
    assert_eq!(frame[22..24], 1020_u16.to_be_bytes());
    let headers = SegmentHeaders { length: 78, jumbo: 0 };
    assert_eq!(segment_header_length(&frame[..]), Some(headers));
}

#[test]
fn built_lengths_and_protocols_are_those_of_the_standards() {
    let frame = PacketBuilder::ethernet()
        .ipv4()
        .options(1)
        .udp(53)
        .payload(5)
        .build();
    assert_eq!(frame[14], 0x46);
    assert_eq!(frame[16..18], [0, 24 + 8 + 5]);
    assert_eq!(frame[23], 17);
    assert_eq!(frame[38..44], [0x9c, 0x40, 0, 53, 0, 13]);
    assert_eq!(addresses(&frame[14..]), Some((v4(SOURCE_V4), v4(DESTINATION_V4))));
}

#[test]
fn later_fragments_have_no_transport_header() {
    for packet in [
        PacketBuilder::ethernet().ipv4().fragment(185, false).payload(50),
        PacketBuilder::ethernet().ipv6().fragment(185, true).payload(50),
    ] {
        let found = transport(&packet).map(|transport| transport.fragment);
        assert_eq!(found, Some(Fragment::Later));
        assert_eq!(segment_header_length(&packet.build()[..]), None);
    }
}

#[derive(Clone, Copy, Debug)]
enum Extension {
    Common { protocol: u8, units: u8 },
    Authentication { words: u8 },
    Atomic,
}

fn extension() -> impl Strategy<Value = Extension> {
    prop_oneof![
        (prop::sample::select(&EXTENSIONS), 0..40_u8)
            .prop_map(|(protocol, units)| Extension::Common { protocol, units }),
        (0..20_u8).prop_map(|half| Extension::Authentication { words: half * 2 + 1 }),
        Just(Extension::Atomic),
    ]
}

prop_compose! {
    /// A network layer of either family on top of `base`.
    fn network_layer(base: PacketBuilder)(
        is_v6: bool,
        options in 0..=10_u8,
        extensions in prop::collection::vec(extension(), 0..=5),
    ) -> PacketBuilder {
        if !is_v6 {
            return base.clone().ipv4().options(options);
        }
        extensions.into_iter().fold(base.clone().ipv6(), |packet, extension| match extension {
            Extension::Common { protocol, units } => packet.extension(protocol, units),
            Extension::Authentication { words } => packet.authentication(words),
            Extension::Atomic => packet.fragment(0, false),
        })
    }
}

prop_compose! {
    fn link_layer()(tags in prop::collection::vec(prop::sample::select(&[0x8100_u16, 0x88a8, 0x9100]), 0..=3)) -> PacketBuilder {
        tags.into_iter().fold(PacketBuilder::ethernet(), |packet, tag| packet.tag(tag, 7))
    }
}

/// Any transport a kernel segments on top of `packet`, and its protocol number.
fn segmented(packet: PacketBuilder) -> impl Strategy<Value = (PacketBuilder, u8)> {
    (0..3_u8, 0..=10_u8, 0..200_usize).prop_map(move |(kind, options, payload)| {
        let packet = packet.clone();
        let (packet, protocol) = match kind {
            0 => (packet.tcp().options(options), 6),
            1 => (packet.udp(9), 17),
            _ => (packet.sctp(), 132),
        };
        (packet.payload(payload), protocol)
    })
}

fn plain() -> impl Strategy<Value = (PacketBuilder, u8)> {
    link_layer().prop_flat_map(network_layer).prop_flat_map(segmented)
}

/// A short plain packet in one of the tunnels.
fn tunnelled() -> impl Strategy<Value = PacketBuilder> {
    (link_layer(), any::<bool>(), 0..5_u8, any::<[bool; 4]>()).prop_flat_map(
        |(link, outer_is_v6, tunnel, [checksum, key, sequence, tagged])| {
            let outer = if outer_is_v6 { link.ipv6() } else { link.ipv4() };
            let frame = |packet: PacketBuilder| {
                let packet = packet.inner_ethernet();
                if tagged { packet.vlan(9) } else { packet }
            };
            let base = match tunnel {
                0 => outer,
                1 => outer.gre(checksum, key, sequence),
                2 => frame(outer.gre(checksum, key, sequence)),
                3 => frame(outer.udp(4789).vxlan(42)),
                _ => frame(outer.udp(8472).vxlan(42)),
            };
            (any::<bool>(), 0..=3_u8).prop_flat_map(move |(inner_is_v6, options)| {
                let inner = base.clone();
                segmented(if inner_is_v6 {
                    inner.ipv6()
                } else {
                    inner.ipv4().options(options)
                })
                .prop_map(|(packet, _)| packet)
            })
        },
    )
}

fn headers(packet: &PacketBuilder) -> SegmentHeaders {
    let length = u16::try_from(packet.header_length()).expect("short headers");
    SegmentHeaders { length, jumbo: 0 }
}

proptest! {
    #[test]
    fn a_built_packet_is_found_as_it_was_built((packet, protocol) in plain()) {
        let expected = Transport { protocol, offset: packet.transport_offset(), fragment: Fragment::No };
        prop_assert_eq!(transport(&packet), Some(expected));
        prop_assert_eq!(segment_header_length(&packet.build()[..]), Some(headers(&packet)));
    }

    #[test]
    fn a_tunnel_is_looked_through(packet in tunnelled()) {
        prop_assert_eq!(segment_header_length(&packet.build()[..]), Some(headers(&packet)));
    }

    #[test]
    fn a_built_packet_cut_within_its_headers_has_none((packet, _) in plain(), kept: prop::sample::Index) {
        let frame = packet.build();
        let kept = kept.index(packet.header_length());
        prop_assert_eq!(segment_header_length(&frame[..kept]), None);
        let link = ethernet(&frame[..], 0).expect("a whole frame");
        if kept >= link.offset + 40 {
            let cut = network_from_version(&frame[..kept], link.offset);
            prop_assert_eq!(cut, network_from_version(&frame[..], link.offset));
            prop_assert!(cut.is_some());
        }
    }
}
