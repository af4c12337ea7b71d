//! Packets no author would think of: always the same 10,000.

use dtm_common::{
    errors::ERROR_UNPARSED_SEGMENTS,
    packet::{Segmentation, segment_header_length, wire},
    traffic::Tally,
};
use dtm_tests::packets::PacketBuilder;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    banks::Growth,
    classifiers::{Classifiers, Gso, PLAIN, PROGRAMS, SLOT, shortest},
};

const PACKETS: usize = 10_000;

/// An Ethernet header of a likely type, then pieces of which many look like headers.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let ethertype =
        prop::sample::select(&[[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [8, 6], [0, 46]][..]);
    let protocol = || prop::sample::select(&[0_u8, 1, 4, 6, 17, 41, 43, 44, 47, 51, 60, 132, 140, 200][..]);
    let ipv4 = (0x43..0x50_u8, any::<[u8; 8]>(), protocol(), any::<[u8; 10]>())
        .prop_map(|(first, rest, protocol, end)| [&[first], &rest[..], &[protocol], &end].concat());
    let ipv6 = (any::<[u8; 5]>(), protocol(), any::<[u8; 33]>())
        .prop_map(|(start, protocol, end)| [&[0x60], &start[..], &[protocol], &end].concat());
    let extension = (protocol(), 0..3_u8, any::<[u8; 6]>())
        .prop_map(|(protocol, units, end)| [&[protocol, units], &end[..]].concat());
    let piece = prop_oneof![ipv4, ipv6, extension, prop::collection::vec(any::<u8>(), 0..64)];
    (any::<[u8; 12]>(), ethertype, prop::collection::vec(piece, 0..12))
        .prop_map(|(macs, ethertype, pieces)| [&macs[..], &ethertype, &pieces.concat()].concat())
}

/// A good frame with a few bytes of its headers overwritten, cut somewhere.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let ethernet = PacketBuilder::ethernet;
    let frames = vec![
        ethernet().ipv4().options(2).tcp().options(5).payload(40),
        ethernet()
            .vlan(7)
            .ipv6()
            .extension(0, 0)
            .fragment(0, false)
            .authentication(3)
            .udp(9)
            .payload(40),
        ethernet()
            .tag(0x88a8, 1)
            .vlan(2)
            .ipv4()
            .gre(true, true, true)
            .inner_ethernet()
            .ipv6()
            .tcp()
            .payload(40),
        ethernet()
            .ipv6()
            .udp(4789)
            .vxlan(42)
            .inner_ethernet()
            .vlan(7)
            .ipv4()
            .sctp()
            .payload(40),
        ethernet().ipv4().ipv6().jumbo().tcp().payload(40),
    ];
    let frame = prop::sample::select(frames).prop_map(|packet| packet.build());
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (frame, changes, prop::option::of(any::<prop::sample::Index>())).prop_map(|(mut frame, changes, end)| {
        for (place, byte) in changes {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        if let Some(end) = end {
            frame.truncate(14 + end.index(frame.len() - 14));
        }
        frame
    })
}

pub(crate) fn packets() -> impl Iterator<Item = Vec<u8>> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"ten thousand packets, every time");
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let packet = prop_oneof![pieces(), damaged()];
    (0..PACKETS).map(move |_| {
        let mut packet = packet.new_tree(&mut runner).expect("no filter rejects").current();
        packet.resize(packet.len().max(shortest(&packet)), 0);
        packet
    })
}

#[test]
fn any_bytes_are_one_packet_of_their_length() {
    let mut classifiers = Classifiers::with_slot();
    for (number, packet) in packets().enumerate() {
        let program = PROGRAMS[number % 2];
        let bytes = packet.len() as u64;
        let found = classifiers.run(program, &packet, PLAIN);
        let expected = Growth::of(
            program,
            SLOT,
            Tally {
                bytes,
                packets: 1,
                wire_bytes: bytes,
            },
        );
        assert_eq!(found, expected, "{program}: packet {number}: {packet:02x?}");
    }
}

/// Here the numbers are the parser's own: what is compared is the parser in the kernel with the parser on the host,
/// which the tables beside this file and the parser's own tests hold to numbers written out.
#[test]
fn any_bytes_are_parsed_in_the_kernel_as_on_the_host() {
    let mut classifiers = Classifiers::with_slot();
    let mut parsed = 0;
    for (number, packet) in packets().enumerate() {
        let program = PROGRAMS[number % 2];
        let gso = Gso {
            segs: (number % 5) as u32,
            size: 1 + (number % 7) as u32 * 100,
        };
        let headers = segment_header_length(&packet[..]);
        let segmentation = Segmentation {
            gso_segs: gso.segs,
            gso_size: gso.size,
            tag_in_metadata: false,
        };
        let wire = wire(packet.len() as u32, segmentation, headers);
        let tally = Tally {
            bytes: packet.len() as u64,
            packets: wire.packets.into(),
            wire_bytes: wire.bytes,
        };
        let mut expected = Growth::of(program, SLOT, tally);
        if headers.is_none() {
            expected = expected.and_error(ERROR_UNPARSED_SEGMENTS);
        } else {
            parsed += 1;
        }
        let found = classifiers.run(program, &packet, gso);
        assert_eq!(found, expected, "{program}: packet {number}: {packet:02x?}");
    }
    assert!(
        parsed > PACKETS / 10,
        "only {parsed} packets got through to a transport header"
    );
}
