//! The second view and the matrix: floods of addresses nobody has seen, networks with the same addresses, and more pairs than
//! there is room for.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use dtm_common::{
    flows::FlowKey,
    views::{
        CHUNK, PEER_HOST, PEER_INTERNET, PEER_MULTICAST, PEER_OTHER, PEER_PRIVATE, PREFIXES, PeerKey, Prefix,
        Protocol, ROUTED, SITE_COUNTED, SITE_STRICT, Scope, Site, Volume, Words,
    },
};
use dtm_daemon::bpf::{Counts, Kernel, Limits};
use dtm_tests::packets::PacketBuilder;

use crate::banks::{SLOTS, info};

/// Packets of a flood.
const FLOOD: u64 = 20_000;

fn words(address: &str) -> Words {
    let address: IpAddr = address.parse().expect("an address");
    Words::of(address.into())
}

/// The kernel side, and programs for one slot.
struct Views {
    kernel: Kernel,
}

/// Both programs of a slot.
struct Slot {
    transmit: SchedClassifier,
    receive: SchedClassifier,
}

impl Views {
    fn load(pairs: u32) -> Self {
        let limits = Limits {
            slots: SLOTS,
            scopes: true,
            pairs,
            ..Limits::default()
        };
        // Without type information, which an emulated machine takes seconds to read.
        let kernel = Kernel::load(Path::new("/nowhere"), limits).expect("the verifier takes the programs");
        Self { kernel }
    }

    /// An interface with this number on a network of these prefixes.
    fn site(&mut self, slot: u32, number: u32, space: u64, flags: u32, prefixes: &[(&str, u32)]) -> Slot {
        self.kernel.counters.prepare(slot).expect("memory for it");
        let mut all = [Prefix::NONE; PREFIXES];
        for (prefix, (address, bits)) in all.iter_mut().zip(prefixes) {
            *prefix = Prefix::new(words(address), *bits);
        }
        let site = Site {
            number,
            flags: SITE_COUNTED | flags,
            space,
            ..Site::default()
        };
        let site = site.with_prefixes(all);
        self.kernel.peers.set_site(slot, site).expect("its site");
        let template = self.kernel.template();
        let (transmit, receive) = template
            .classifiers(Counts::Slot(slot))
            .expect("the verifier takes an instance");
        Slot {
            transmit: SchedClassifier::from_program_info(info(&transmit), "".into()).expect("a classifier"),
            receive: SchedClassifier::from_program_info(info(&receive), "".into()).expect("a classifier"),
        }
    }

    fn peer(&mut self, space: u64, address: &str, number: u32) {
        let key = PeerKey {
            space,
            address: words(address),
        };
        self.kernel.peers.set_peer(key, Some(number)).expect("a peer");
    }

    fn flows(&self) -> HashMap<FlowKey, Volume> {
        let map = self.kernel.flows.as_ref().expect("a matrix");
        map.read().expect("it can be read")
    }

    fn flow(&self, source: u32, destination: u32) -> u64 {
        let key = FlowKey { source, destination };
        self.flows().get(&key).map_or(0, |volume| volume.packets)
    }

    fn errors(&self, name: &str) -> u64 {
        let errors = self.kernel.errors().expect("errors can be read");
        errors
            .iter()
            .find(|(known, _count)| *known == name)
            .map_or(0, |(_name, count)| *count)
    }
}

fn run(program: &SchedClassifier, packet: &[u8]) {
    let options = TestRunOptions {
        data_in: Some(packet),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).expect("the program runs");
    assert_eq!(result.return_value.cast_signed(), -1, "the next program decides");
}

/// A frame with 20 bytes above UDP.
fn udp(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let frame = PacketBuilder::ethernet();
    let frame = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => frame.ipv4_between(source, destination),
        (IpAddr::V6(source), IpAddr::V6(destination)) => frame.ipv6_between(source, destination),
        _ => panic!("two versions"),
    };
    frame.udp(9).payload(20).build()
}

fn from_to(source: &str, destination: &str) -> Vec<u8> {
    udp(
        source.parse().expect("an address"),
        destination.parse().expect("an address"),
    )
}

#[test]
fn the_same_addresses_on_two_networks_are_two_peers() {
    let mut views = Views::load(64);
    let prefixes = [("10.0.0.0", 96 + 24)];
    let one = views.site(0, 1, 7, 0, &prefixes);
    let other = views.site(1, 2, 8, 0, &prefixes);
    let outside = views.site(2, 3, 9, 0, &[("10.9.0.0", 96 + 24)]);
    views.peer(7, "10.0.0.9", 21);
    views.peer(8, "10.0.0.9", 22);
    views.peer(8, "10.0.0.1", PEER_HOST);
    for (slot, number, peer) in [(&one, 1, 21), (&other, 2, 22), (&outside, 3, PEER_PRIVATE)] {
        run(&slot.transmit, &from_to("10.0.0.5", "10.0.0.9"));
        assert_eq!(views.flow(number, peer), 1, "{:?}", views.flows());
    }
    run(&one.transmit, &from_to("10.0.0.5", "10.0.0.1"));
    run(&other.transmit, &from_to("10.0.0.5", "10.0.0.1"));
    assert_eq!((views.flow(1, PEER_HOST), views.flow(2, PEER_HOST)), (0, 1));
    let cells = |slot| views.kernel.counters.read(slot).views.transmit.cells;
    let udp = Protocol::Udp as usize;
    assert_eq!(cells(0)[Scope::Network as usize][udp].packets, 2);
    assert_eq!(cells(1)[Scope::Host as usize][udp].packets, 1);
    assert_eq!(cells(2)[Scope::Private as usize][udp].packets, 1);
}

#[test]
fn on_a_shared_link_only_what_docker_gave_out_is_on_the_network() {
    let mut views = Views::load(64);
    let slot = views.site(0, 1, 7, SITE_STRICT, &[("192.0.2.0", 96 + 24)]);
    views.peer(7, "192.0.2.9", 21);
    views.peer(ROUTED, "192.0.2.1", PEER_HOST);
    for address in ["192.0.2.9", "192.0.2.1", "192.0.2.77"] {
        run(&slot.transmit, &from_to("192.0.2.5", address));
    }
    let pairs = [21, PEER_HOST, PEER_INTERNET].map(|peer| views.flow(1, peer));
    assert_eq!(pairs, [1, 1, 1]);
}

#[test]
fn an_address_that_is_anothers_at_once_and_one_that_shares_its_bucket() {
    let mut views = Views::load(256);
    let slot = views.site(0, 1, 7, 0, &[("10.0.0.0", 96 + 8)]);
    // As many as there are buckets: many share one.
    let mut numbers = BTreeMap::new();
    for number in 0..20_000_u32 {
        let address = Ipv4Addr::from(0x0a00_0000 + number).to_string();
        views.peer(7, &address, 100 + number);
        numbers.insert(address, 100 + number);
    }
    let shared = views
        .kernel
        .map_use(0, 0)
        .find(|(name, ..)| *name == "peers_overflow");
    assert!(shared.is_some_and(|(_name, entries, _limit)| entries > 1_000));
    let checked: Vec<_> = numbers.iter().step_by(601).collect();
    for (address, number) in &checked {
        run(&slot.transmit, &from_to("10.200.0.1", address));
        assert_eq!(views.flow(1, **number), 1, "{address}");
    }
    for (address, number) in &checked {
        let key = PeerKey {
            space: 7,
            address: words(address),
        };
        let moved = **number + 50_000;
        views.kernel.peers.set_peer(key, Some(moved)).expect("another");
        run(&slot.transmit, &from_to("10.200.0.1", address));
        assert_eq!(
            (views.flow(1, **number), views.flow(1, moved)),
            (1, 1),
            "{address}"
        );
        views.kernel.peers.set_peer(key, None).expect("nobody");
        run(&slot.transmit, &from_to("10.200.0.1", address));
        assert_eq!(
            (views.flow(1, **number), views.flow(1, moved)),
            (1, 1),
            "{address}"
        );
    }
}

#[test]
fn pairs_without_room_are_counted_together() {
    const PAIRS: u32 = 16;
    let mut views = Views::load(PAIRS);
    let slot = views.site(0, 1, 7, 0, &[("10.0.0.0", 96 + 24)]);
    for number in 0..40 {
        let address = format!("10.0.0.{}", 10 + number);
        views.peer(7, &address, 100 + number);
        run(&slot.transmit, &from_to("10.0.0.5", &address));
    }
    let flows = views.flows();
    let rest = flows.get(&FlowKey::REST).copied().unwrap_or_default();
    let packets: u64 = flows.values().map(|volume| volume.packets).sum();
    assert_eq!((flows.len(), packets), (PAIRS as usize + 1, 40));
    assert_eq!(rest.packets, u64::from(40 - PAIRS));
    assert_eq!(views.errors("flows_full"), rest.packets);
}

/// What std thinks of an address that nobody here has.
fn scope_of(address: IpAddr) -> (Scope, u32) {
    let (is_multicast, is_nobody, is_private) = match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            (
                v4.is_multicast() || v4.is_broadcast(),
                a == 0 || v4.is_loopback(),
                v4.is_private() || v4.is_link_local() || a == 100 && b & 0xc0 == 64,
            )
        }
        IpAddr::V6(v6) => (
            v6.is_multicast(),
            v6.is_unspecified() || v6.is_loopback(),
            v6.is_unique_local() || v6.is_unicast_link_local(),
        ),
    };
    if is_multicast {
        (Scope::Multicast, PEER_MULTICAST)
    } else if is_nobody {
        (Scope::Other, PEER_OTHER)
    } else if is_private {
        (Scope::Private, PEER_PRIVATE)
    } else {
        (Scope::Internet, PEER_INTERNET)
    }
}

#[test]
fn a_flood_of_addresses_leaves_the_sums_exact_and_takes_no_memory() {
    let mut views = Views::load(64);
    // Of a space of its own, with a prefix that no random address is in.
    let slot = views.site(0, 1, ROUTED, 0, &[]);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    let mut expected = BTreeMap::<(bool, usize), Volume>::new();
    for number in 0..FLOOD {
        let (first, second) = (random(), random());
        // One half anywhere, the other where there are edges.
        let (own, peer): (IpAddr, IpAddr) = if number % 2 == 0 {
            let edges = [
                0x0a00_0000,
                0xac10_0000,
                0xc0a8_0000,
                0x6440_0000,
                0xa9fe_0000,
                0xe000_0000,
                0x7f00_0000,
            ];
            let near = edges[(first % 7) as usize] + (second as u32 & 0x00ff_ffff);
            let peer = if number % 4 == 0 { first as u32 } else { near };
            (Ipv4Addr::new(172, 18, 0, 2).into(), Ipv4Addr::from(peer).into())
        } else {
            let peer = Ipv6Addr::from(u128::from(first) << 64 | u128::from(second));
            ("fd00::2".parse().expect("an address"), peer.into())
        };
        let is_sent = first >> 60 & 1 == 0;
        let (packet, program) = if is_sent {
            (udp(own, peer), &slot.transmit)
        } else {
            (udp(peer, own), &slot.receive)
        };
        let (scope, _number) = scope_of(peer);
        let volume = expected.entry((is_sent, scope as usize)).or_default();
        volume.packets += 1;
        volume.bytes += packet.len() as u64;
        run(program, &packet);
    }
    let counted = views.kernel.counters.read(0);
    for (is_sent, tally, view) in [
        (true, counted.transmit, counted.views.transmit),
        (false, counted.receive, counted.views.receive),
    ] {
        for (scope, cells) in view.cells.iter().enumerate() {
            let known = expected.get(&(is_sent, scope)).copied().unwrap_or_default();
            assert_eq!(cells[Protocol::Udp as usize], known, "{:?}", Scope::ALL[scope]);
        }
        let all = view.cells.iter().flatten();
        let sums = all.fold((0, 0), |(bytes, packets), cell| {
            (bytes + cell.bytes, packets + cell.packets)
        });
        assert_eq!(sums, (tally.bytes, tally.packets));
        let internet = view.cells[Scope::Internet as usize].iter().map(|cell| cell.bytes);
        assert_eq!(view.services.iter().sum::<u64>(), internet.sum::<u64>());
    }
    let flows = views.flows();
    assert!(flows.len() <= 10, "{} pairs", flows.len());
    let packets: u64 = flows.values().map(|volume| volume.packets).sum();
    assert_eq!(packets, FLOOD);
    assert_eq!(
        views
            .kernel
            .errors()
            .expect("errors")
            .iter()
            .map(|(_, count)| count)
            .sum::<u64>(),
        0
    );
}

#[test]
fn what_is_switched_off_is_not_in_the_programs() {
    let size = |scopes, pairs| {
        let limits = Limits {
            slots: SLOTS,
            scopes,
            pairs,
            ..Limits::default()
        };
        let kernel = Kernel::load(Path::new("/nowhere"), limits).expect("the verifier takes the programs");
        let (transmit, _receive) = kernel.classifiers().expect("its programs");
        info(&transmit).size_translated().expect("its size")
    };
    let (totals, scopes, all) = (size(false, 0), size(true, 0), size(true, 64));
    assert!(totals * 2 < scopes && scopes < all, "{totals}, {scopes}, {all}");
}

/// A container that needs memory for its second view is attached to late by as long as the kernel waits for all programs,
/// for each CPU: some ten milliseconds.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a pause between births is what the next one profits from"
)]
fn a_birth_does_not_wait_for_memory() {
    const AT_ONCE: Duration = Duration::from_millis(1);
    const CHUNKS: u32 = 8;
    let limits = Limits {
        slots: CHUNKS * CHUNK,
        scopes: true,
        pairs: 0,
        ..Limits::default()
    };
    let mut kernel = Kernel::load(Path::new("/nowhere"), limits).expect("the verifier takes the programs");
    // However long a machine takes to make one, it has made it before it is asked for.
    let mut waits = Vec::new();
    let is_ready = (0..CHUNKS).any(|chunk| {
        thread::sleep(Duration::from_millis(10 << chunk));
        let start = Instant::now();
        kernel.counters.prepare(chunk * CHUNK).expect("memory for it");
        waits.push(start.elapsed());
        start.elapsed() < AT_ONCE
    });
    assert!(is_ready, "{waits:?}");
}
