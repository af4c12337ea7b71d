extern crate std;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    vec::Vec,
};

use super::*;
use crate::drops::Address;

fn words(address: &str) -> Words {
    let address: IpAddr = address.parse().unwrap();
    Words::of(address.into())
}

fn prefix(address: &str, bits: u32) -> Prefix {
    Prefix::new(
        words(address),
        if address.contains(':') { bits } else { 96 + bits },
    )
}

#[test]
fn the_edges_of_each_kind_of_address() {
    use AddressKind::{Global, LinkLocal, Multicast, Nobody, Private};
    let expected = [
        (
            Private,
            "10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 169.254.0.0 169.254.255.255",
        ),
        (
            Private,
            "172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 fc00:: fdff:ffff::1",
        ),
        (
            Multicast,
            "224.0.0.0 239.255.255.255 255.255.255.255 ff00:: ff02::1 ffff::",
        ),
        (Nobody, "0.0.0.0 0.255.255.255 127.0.0.0 127.255.255.255 :: ::1"),
        (LinkLocal, "fe80:: febf:ffff::1"),
        (
            Global,
            "1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0",
        ),
        (
            Global,
            "169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0",
        ),
        (
            Global,
            "223.255.255.255 240.0.0.0 255.255.255.254 198.51.100.1 2001:db8::1 fec0:: ::2 fbff::",
        ),
    ];
    for (expected, addresses) in expected {
        for address in addresses.split(' ') {
            assert_eq!(kind(words(address)), expected, "{address}");
        }
    }
}

#[test]
fn std_agrees_about_addresses() {
    let mut state = 7_u64;
    for _ in 0..100_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let address = Ipv4Addr::from((state >> 32) as u32);
        let found = kind(Words::of(Address::v4(address.octets())));
        assert_eq!(
            found == AddressKind::Private,
            address.is_private()
                || address.is_link_local()
                || address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64,
            "{address}"
        );
        assert_eq!(
            found == AddressKind::Multicast,
            address.is_multicast() || address.is_broadcast()
        );
        let address = Ipv6Addr::from(u128::from(state) << 64 | u128::from(state.rotate_left(17)));
        let found = kind(Words::of(Address(address.octets())));
        assert_eq!(
            found == AddressKind::Private,
            address.is_unique_local(),
            "{address}"
        );
        assert_eq!(
            found == AddressKind::LinkLocal,
            address.is_unicast_link_local(),
            "{address}"
        );
        assert_eq!(
            found == AddressKind::Multicast,
            address.is_multicast(),
            "{address}"
        );
    }
}

#[test]
fn a_prefix_has_its_addresses_and_no_others() {
    let network = prefix("172.20.5.9", 16);
    assert!(network.has(words("172.20.0.0")) && network.has(words("172.20.255.255")));
    assert!(!network.has(words("172.21.0.0")) && !network.has(words("::ac14:1")));
    assert!(!Prefix::NONE.has(words("::")) && !Prefix::NONE.has(words("0.0.0.0")));
    let network = prefix("fd00:1::7", 64);
    assert!(network.has(words("fd00:1::ffff:1")) && !network.has(words("fd00:1:0:1::")));
    assert!(prefix("10.0.0.0", 0).has(words("192.0.2.1")) && !prefix("10.0.0.0", 0).has(words("2001:db8::")));
    assert!(prefix("fd00::1", 128).has(words("fd00::1")) && !prefix("fd00::1", 128).has(words("fd00::")));
}

#[test]
fn the_last_address_of_a_network_is_everybodys() {
    assert_eq!(
        words("172.20.255.255").v4(),
        Some(prefix("172.20.3.4", 16).broadcast())
    );
    assert_eq!(
        words("172.20.3.7").v4(),
        Some(prefix("172.20.3.4", 30).broadcast())
    );
    for bits in [31, 32] {
        assert_eq!(prefix("172.20.0.1", bits).broadcast(), 0);
    }
    assert_eq!(prefix("fd00::", 64).broadcast(), 0);
    assert_eq!(Prefix::NONE.broadcast(), 0);
    let mut prefixes = [Prefix::NONE; PREFIXES];
    prefixes[2] = prefix("10.0.0.0", 8);
    assert_eq!(
        Site::default().with_prefixes(prefixes).broadcasts,
        [0, 0, 0x0aff_ffff, 0]
    );
}

#[test]
fn neighbours_rarely_share_a_bucket() {
    let mut used = std::collections::HashMap::<u32, u32>::new();
    let networks = ["172.17.0.", "172.18.0.", "fd00:1::", "fe80::42:acff:fe11:"];
    for (space, network) in networks.iter().enumerate() {
        for host in 2..252 {
            let address = words(&std::format!("{network}{host}"));
            for space in [ROUTED, 0xaf63_dc4c_8601_ec8c_u64.wrapping_mul(space as u64 + 3)] {
                *used.entry(PeerKey { space, address }.bucket()).or_default() += 1;
            }
        }
    }
    let shared: u32 = used.values().map(|count| count - 1).sum();
    assert!(shared < 200, "{shared} of 2,000 found their bucket taken");
    assert!(used.keys().all(|bucket| *bucket < PEER_BUCKETS));
}

#[test]
fn no_port_is_of_two_kinds_and_either_side_can_be_the_server() {
    let mut all: Vec<u16> = [CLEARTEXT_PORTS, TLS_PORTS, WELL_KNOWN_PORTS].concat();
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count);
    let between = |other: u16, own: u16| {
        let number = service(service_of(other) as u32, service_of(own) as u32);
        Service::ALL[number as usize]
    };
    assert_eq!(between(443, 40_000), Service::Tls);
    assert_eq!(between(40_000, 80), Service::Cleartext);
    assert_eq!(between(443, 80), Service::Tls, "the other side's port counts");
    assert_eq!(between(53, 80), Service::WellKnown);
    assert_eq!(between(1023, 40_000), Service::WellKnown);
    assert_eq!(between(1024, 40_000), Service::Other);
    assert_eq!(between(0, 0), Service::Other);
    for port in WELL_KNOWN_PORTS {
        assert!(*port > 1023 && service_of(*port) == Service::WellKnown);
    }
    let words: Vec<u64> = ports().collect();
    assert_eq!(words.len(), PORT_WORDS as usize);
    for port in 0..=u16::MAX {
        let word = words[(u32::from(port) / PORTS_PER_WORD) as usize];
        let number = word >> (2 * (u32::from(port) % PORTS_PER_WORD)) & 3;
        assert_eq!(number, service_of(port) as u64, "{port}");
    }
}

#[test]
fn numbers_and_names_go_together() {
    for (number, scope) in Scope::ALL.into_iter().enumerate() {
        assert_eq!(scope as usize, number);
    }
    for (number, protocol) in Protocol::ALL.into_iter().enumerate() {
        assert_eq!(protocol as usize, number);
    }
    for (number, service) in Service::ALL.into_iter().enumerate() {
        assert_eq!(service as usize, number);
    }
    assert_eq!(
        (
            Protocol::of(1, false),
            Protocol::of(1, true),
            Protocol::of(58, true),
            Protocol::of(58, false)
        ),
        (Protocol::Icmp, Protocol::Other, Protocol::Icmp, Protocol::Other)
    );
}
