//! The programs of control groups: packets that begin with their IP header.

use std::os::fd::OwnedFd;

use aya::programs::CgroupSkb;
use dtm_common::{
    errors::ERROR_UNPARSED_SEGMENTS,
    packet::{Segmentation, segment_header_length_from_ip, wire},
    traffic::Tally,
};
use dtm_tests::packets::PacketBuilder;

use crate::{
    banks::{Banks, Growth, info},
    classifiers::{Gso, PLAIN, context, shortest},
    instances::kernel,
    namespace::Namespace,
    plain, random, segments,
};

const PROGRAMS: [&str; 2] = ["dtm_cgroup_transmit", "dtm_cgroup_receive"];
const SLOT: u32 = 3;

/// Bytes of an Ethernet header, which these programs see nothing of.
const ETHERNET: u64 = 14;

/// Both programs, and an interface to run them at: at the loopback they count nothing.
struct Sockets {
    programs: [CgroupSkb; 2],
    banks: Banks,
    namespace: Namespace,
    ifindex: u32,
}

impl Sockets {
    fn new() -> Self {
        let (transmit, receive) = kernel().template().cgroup(SLOT).expect("the verifier takes them");
        let namespace = Namespace::new();
        namespace.add_pair("eth0", "peer0", &namespace);
        Self {
            banks: Banks::of(&info(&transmit)),
            programs: [transmit, receive].map(|program: OwnedFd| {
                CgroupSkb::from_program_info(info(&program), "".into(), None)
                    .expect("it is for control groups")
            }),
            ifindex: namespace.index("eth0"),
            namespace,
        }
    }

    /// Runs the program of this place in [`PROGRAMS`] over many packets.
    fn run(&mut self, work: impl FnOnce(&mut dyn FnMut(usize, &[u8], Gso) -> Growth) + Send) {
        let Self {
            programs,
            banks,
            namespace,
            ifindex,
        } = self;
        namespace.enter(|| {
            work(&mut |place, packet, gso| banks.run(&programs[place], packet, &context(gso, *ifindex), 1));
        });
    }
}

/// What is counted of a frame that TC counts so.
fn from_ip(tally: Tally) -> Tally {
    Tally {
        bytes: tally.bytes - ETHERNET,
        packets: tally.packets,
        wire_bytes: tally.wire_bytes - tally.packets * ETHERNET,
    }
}

#[test]
fn a_plain_packet_counts_from_its_ip_header_on() {
    Sockets::new().run(|run| {
        for (place, program) in PROGRAMS.into_iter().enumerate() {
            for (name, packet, length) in plain::packets() {
                let expected = Growth::of(program, SLOT, from_ip(plain::one_packet(length)));
                // The kernel's test run takes nothing shorter.
                if length > ETHERNET {
                    assert_eq!(run(place, &packet.build(), PLAIN), expected, "{program}: {name}");
                }
            }
        }
    });
}

#[test]
fn each_segment_is_a_packet_with_its_headers_from_ip_on() {
    Sockets::new().run(|run| {
        for (place, program) in PROGRAMS.into_iter().enumerate() {
            for case in segments::cases() {
                let packet = case.packet.build();
                // No tag gets as far as a socket.
                if !matches!(packet[12..14], [0x08, 0] | [0x86, 0xdd]) {
                    continue;
                }
                let expected = Growth::of(program, SLOT, from_ip(case.tally()));
                assert_eq!(
                    run(place, &packet, case.gso),
                    expected,
                    "{program}: {}",
                    case.name
                );
            }
        }
    });
}

#[test]
fn headers_that_cannot_be_found_are_not_repeated() {
    let ethernet = PacketBuilder::ethernet;
    let tunnels = (0..17).fold(ethernet(), |packet, _| packet.ipv4());
    Sockets::new().run(|run| {
        for (place, program) in PROGRAMS.into_iter().enumerate() {
            for (name, packet) in [
                ("ICMP", ethernet().ipv4().icmp().payload(1000)),
                ("ARP", ethernet().arp()),
                ("a tag", ethernet().vlan(7).ipv4().tcp().payload(1000)),
                (
                    "a fragment",
                    ethernet().ipv4().fragment(0, true).udp(9).payload(1000),
                ),
                ("seventeen headers", tunnels.clone().tcp().payload(10)),
            ] {
                let packet = packet.build();
                let bytes = packet.len() as u64 - ETHERNET;
                let tally = Tally {
                    bytes,
                    packets: 2,
                    wire_bytes: bytes,
                };
                let expected = Growth::of(program, SLOT, tally).and_error(ERROR_UNPARSED_SEGMENTS);
                let found = run(place, &packet, Gso { segs: 2, size: 500 });
                assert_eq!(found, expected, "{program}: {name}");
            }
        }
    });
}

#[test]
fn a_buffer_cut_within_its_headers_counts_its_segments_and_an_error() {
    Sockets::new().run(|run| {
        for (place, program) in PROGRAMS.into_iter().enumerate() {
            for case in segments::cases() {
                let whole = case.packet.build();
                for length in shortest(&whole).max(15)..case.packet.header_length() {
                    let bytes = length as u64 - ETHERNET;
                    let tally = Tally {
                        bytes,
                        packets: 3,
                        wire_bytes: bytes,
                    };
                    let expected = Growth::of(program, SLOT, tally).and_error(ERROR_UNPARSED_SEGMENTS);
                    let found = run(place, &whole[..length], Gso { segs: 3, size: 1000 });
                    assert_eq!(found, expected, "{program}: {length} bytes of {}", case.name);
                }
            }
        }
    });
}

/// The numbers are the parser's own: what is compared is the parser in the kernel with the parser on the host.
#[test]
fn any_bytes_are_parsed_in_the_kernel_as_on_the_host() {
    Sockets::new().run(|run| {
        for (number, packet) in random::packets()
            .take(2000)
            .enumerate()
            .filter(|(_, packet)| packet.len() > 14)
        {
            let gso = Gso {
                segs: (number % 5) as u32,
                size: (number % 7) as u32 * 100,
            };
            let seen = &packet[14..];
            let headers = Some(gso.size).filter(|size| *size != 0);
            let headers = headers.and_then(|_| segment_header_length_from_ip(seen));
            let segmentation = Segmentation {
                gso_segs: gso.segs,
                gso_size: gso.size,
                tag_in_metadata: false,
            };
            let wire = wire(seen.len() as u32, segmentation, headers);
            let tally = Tally {
                bytes: seen.len() as u64,
                packets: wire.packets.into(),
                wire_bytes: wire.bytes,
            };
            let place = number % 2;
            let mut expected = Growth::of(PROGRAMS[place], SLOT, tally);
            if gso.size != 0 && headers.is_none() {
                expected = expected.and_error(ERROR_UNPARSED_SEGMENTS);
            }
            let found = run(place, &packet, gso);
            assert_eq!(found, expected, "packet {number}: {packet:02x?}");
        }
    });
}

#[test]
fn what_stays_on_the_loopback_is_not_counted() {
    let mut sockets = Sockets::new();
    // The loopback of every namespace has the same index.
    sockets.ifindex = 1;
    let packet = PacketBuilder::ethernet().ipv4().tcp().payload(2500).build();
    sockets.run(|run| {
        for place in [0, 1] {
            for gso in [PLAIN, Gso { segs: 3, size: 1000 }] {
                assert_eq!(run(place, &packet, gso), Growth::default());
            }
        }
    });
}
