//! The program of uplinks: which protocol a frame counts for, whatever it is, and that it passes.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};
use dtm_common::{
    errors::ERROR_NO_SLOT,
    packet::head,
    uplinks::{UPLINKS_MAX, UplinkCounters},
    views::{Protocol, Volume},
};
use dtm_tests::packets::PacketBuilder;

use crate::{instances, plain, random};

/// `XDP_PASS`.
const PASS: u32 = 2;
const SLOT: u32 = 3;
/// Where TCP's flags are in its header.
const FLAGS: usize = 13;

/// The program, and what it counts into.
struct Uplink {
    ebpf: Ebpf,
    counted: Vec<UplinkCounters>,
}

impl Uplink {
    fn of_slot(slot: u32) -> Self {
        let cpus = u32::try_from(nr_cpus().expect("the number of CPUs")).expect("few CPUs");
        let mut ebpf = EbpfLoader::new()
            .override_global("SLOT", &slot, true)
            .map_max_entries("UPLINKS", cpus * UPLINKS_MAX)
            .load(dtm_daemon::bpf::OBJECT)
            .expect("the kernel side loads");
        let program = ebpf
            .program_mut("dtm_uplink")
            .expect("the program is in the object");
        let program: &mut Xdp = program.try_into().expect("it is of XDP");
        program.load().expect("the verifier takes it");
        let mut uplink = Self {
            ebpf,
            counted: Vec::new(),
        };
        uplink.counted = uplink.read();
        uplink
    }

    /// Runs it over `packet`, checks its verdict, and tells by how much which slots grew.
    fn run(&mut self, packet: &[u8], times: u32) -> Vec<(u32, UplinkCounters)> {
        let program = self
            .ebpf
            .program("dtm_uplink")
            .expect("the program is in the object");
        let program: &Xdp = program.try_into().expect("it is of XDP");
        let mut untouched = vec![0; packet.len()];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut untouched),
                repeat: times,
                ..TestRunOptions::default()
            })
            .expect("the kernel runs it");
        assert_eq!(result.return_value, PASS, "the program decides about a packet");
        assert_eq!(packet, untouched, "the program changes a packet");
        let after = self.read();
        let grown = self.counted.iter().zip(&after).enumerate();
        let grown = grown.filter(|(_, (before, after))| before != after);
        let grown = grown.map(|(at, (before, after))| {
            let slot = u32::try_from(at).expect("few slots") % UPLINKS_MAX;
            (slot, difference(after, before))
        });
        let grown = grown.collect();
        self.counted = after;
        grown
    }

    fn read(&self) -> Vec<UplinkCounters> {
        let map = self.ebpf.map("UPLINKS").expect("the map is in the object");
        let map: Array<_, Counters> = map.try_into().expect("an array");
        map.iter()
            .map(|entry| entry.expect("the entry exists").0)
            .collect()
    }

    fn errors(&self, kind: u32) -> u64 {
        let map = self.ebpf.map("ERRORS").expect("the map is in the object");
        let map: PerCpuArray<_, u64> = map.try_into().expect("a per-CPU array");
        map.get(&kind, 0).expect("the entry exists").iter().sum()
    }
}

/// For aya, which wants to know that any bytes are some.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Counters(UplinkCounters);

#[expect(unsafe_code, reason = "Pod is an unsafe marker trait")]
// SAFETY: `repr(C)`, integers without padding between them, every bit pattern valid.
unsafe impl aya::Pod for Counters {}

fn difference(after: &UplinkCounters, before: &UplinkCounters) -> UplinkCounters {
    let mut grown = UplinkCounters::default();
    for (at, volume) in grown.protocols.iter_mut().enumerate() {
        volume.bytes = after.protocols[at].bytes - before.protocols[at].bytes;
        volume.packets = after.protocols[at].packets - before.protocols[at].packets;
    }
    grown.syns = after.syns - before.syns;
    assert_eq!((after.name, after.reserved), (before.name, before.reserved));
    grown
}

/// One slot, one protocol, `times` frames.
fn grown(protocol: Protocol, bytes: usize, is_syn: bool, times: u64) -> Vec<(u32, UplinkCounters)> {
    let mut counters = UplinkCounters::default();
    counters.protocols[protocol as usize] = Volume {
        bytes: bytes as u64 * times,
        packets: times,
    };
    counters.syns = if is_syn { times } else { 0 };
    vec![(SLOT, counters)]
}

/// The frame with these flags of TCP's, whose header is the last.
fn flagged(packet: &PacketBuilder, flags: u8) -> Vec<u8> {
    let mut frame = packet.build();
    let at = packet.transport_offset() + FLAGS;
    frame[at] = flags;
    frame
}

#[test]
fn every_kind_of_frame_counts_for_its_protocol() {
    let ethernet = PacketBuilder::ethernet;
    let mut uplink = Uplink::of_slot(SLOT);
    for (name, packet, protocol) in [
        ("IPv4, TCP", ethernet().ipv4().tcp().payload(9), Protocol::Tcp),
        ("IPv4, UDP", ethernet().ipv4().udp(53), Protocol::Udp),
        ("IPv4, ICMP", ethernet().ipv4().icmp(), Protocol::Icmp),
        ("IPv4, SCTP", ethernet().ipv4().sctp(), Protocol::Other),
        (
            "IPv4 with options",
            ethernet().ipv4().options(10).udp(53),
            Protocol::Udp,
        ),
        (
            "IPv4, a later fragment",
            ethernet().ipv4().fragment(100, false).tcp(),
            Protocol::Tcp,
        ),
        ("IPv6, TCP", ethernet().ipv6().tcp(), Protocol::Tcp),
        (
            "IPv6, hop by hop, UDP",
            ethernet().ipv6().extension(0, 3).udp(53),
            Protocol::Udp,
        ),
        (
            "IPv6, ICMP of version 4",
            ethernet().ipv6().icmp(),
            Protocol::Other,
        ),
        ("a tag, IPv4, TCP", ethernet().vlan(7).ipv4().tcp(), Protocol::Tcp),
        (
            "two tags, IPv6, UDP",
            ethernet().tag(0x88a8, 1).vlan(2).ipv6().udp(9),
            Protocol::Udp,
        ),
        (
            "four tags",
            ethernet().vlan(1).vlan(2).vlan(3).vlan(4).ipv4().tcp(),
            Protocol::Other,
        ),
        (
            "a tunnel",
            ethernet()
                .ipv4()
                .gre(false, false, false)
                .inner_ethernet()
                .ipv4()
                .tcp(),
            Protocol::Other,
        ),
        ("ARP", ethernet().arp(), Protocol::Other),
        ("nobody's", ethernet().payload(46), Protocol::Other),
        ("nothing", ethernet(), Protocol::Other),
    ] {
        let frame = packet.build();
        assert_eq!(
            uplink.run(&frame, 1),
            grown(protocol, frame.len(), false, 1),
            "{name}"
        );
        assert_eq!(
            uplink.run(&frame, 50),
            grown(protocol, frame.len(), false, 50),
            "{name}"
        );
    }
    let mut icmpv6 = ethernet().ipv6().icmp().build();
    icmpv6[14 + 6] = 58;
    assert_eq!(
        uplink.run(&icmpv6, 1),
        grown(Protocol::Icmp, icmpv6.len(), false, 1)
    );
}

#[test]
fn only_who_asks_for_a_connection_is_a_syn() {
    let mut uplink = Uplink::of_slot(SLOT);
    let ethernet = PacketBuilder::ethernet;
    for packet in [
        ethernet().ipv4().tcp(),
        ethernet().ipv4().options(3).tcp(),
        ethernet().ipv6().tcp(),
        ethernet().ipv6().extension(60, 1).tcp(),
        ethernet().vlan(7).ipv4().tcp(),
        ethernet().tag(0x88a8, 1).vlan(2).ipv6().tcp(),
    ] {
        // SYN; with ECN's two; SYN and ACK; ACK; RST; FIN and ACK; nothing; everything.
        for (flags, is_syn) in [
            (0x02, true),
            (0xc2, true),
            (0x12, false),
            (0x10, false),
            (0x04, false),
            (0x11, false),
            (0x00, false),
            (0xff, false),
        ] {
            let frame = flagged(&packet, flags);
            let expected = grown(Protocol::Tcp, frame.len(), is_syn, 1);
            assert_eq!(uplink.run(&frame, 1), expected, "{flags:#x}: {frame:02x?}");
        }
    }
    // What looks like one and is the middle of somebody's data.
    let later = flagged(&ethernet().ipv4().fragment(100, false).tcp(), 0x02);
    assert_eq!(uplink.run(&later, 1), grown(Protocol::Tcp, later.len(), false, 1));
}

#[test]
fn a_frame_cut_anywhere_counts_once_and_for_all_there_is() {
    let mut uplink = Uplink::of_slot(SLOT);
    for (name, packet, _) in plain::packets() {
        let whole = packet.build();
        for length in 14..whole.len().min(180) {
            let seen = head(&whole[..length]);
            let expected = grown(seen.protocol, length, seen.is_request, 1);
            assert_eq!(
                uplink.run(&whole[..length], 1),
                expected,
                "{length} bytes of {name}"
            );
        }
    }
}

/// What is compared is the parser in the kernel with the one on the host, which its own tests hold to numbers written out.
#[test]
fn any_bytes_are_seen_in_the_kernel_as_on_the_host() {
    let mut uplink = Uplink::of_slot(SLOT);
    for (number, packet) in random::packets().take(2_000).enumerate() {
        let seen = head(&packet[..]);
        let expected = grown(seen.protocol, packet.len(), seen.is_request, 1);
        assert_eq!(uplink.run(&packet, 1), expected, "packet {number}: {packet:02x?}");
    }
}

/// Nobody sends headers that are a kilobyte in, and the program does not look for them there.
#[test]
fn what_is_far_behind_is_something_else() {
    let mut uplink = Uplink::of_slot(SLOT);
    let packet = PacketBuilder::ethernet().ipv6().extension(60, 255).tcp().build();
    assert_eq!(
        uplink.run(&packet, 1),
        grown(Protocol::Tcp, packet.len(), false, 1)
    );
    let packet = PacketBuilder::ethernet()
        .ipv6()
        .extension(60, 255)
        .extension(60, 0)
        .tcp()
        .build();
    assert_eq!(
        uplink.run(&packet, 1),
        grown(Protocol::Other, packet.len(), false, 1)
    );
}

#[test]
fn without_a_slot_it_counts_an_error_and_passes() {
    for slot in [UPLINKS_MAX, u32::MAX] {
        let mut uplink = Uplink::of_slot(slot);
        let packet = PacketBuilder::ethernet().ipv4().tcp().build();
        let before = uplink.errors(ERROR_NO_SLOT);
        assert_eq!(uplink.run(&packet, 1), []);
        assert_eq!(uplink.errors(ERROR_NO_SLOT), before + 1);
    }
}

#[test]
fn there_is_an_instance_for_each_slot_and_no_other() {
    let kernel = instances::kernel();
    let template = kernel.template();
    for slot in [0, UPLINKS_MAX - 1] {
        template.uplink(slot).expect("the verifier takes it again");
    }
    template.uplink(UPLINKS_MAX).expect_err("there is no such slot");
}
