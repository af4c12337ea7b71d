//! Where traffic goes: what scopes, protocols and services are, by the constants that the kernel side counts with.

use std::{fmt::Write as _, net::IpAddr};

use dtm_common::{
    drops::Address,
    views::{
        AddressKind, CLEARTEXT_PORTS, PREFIXES, Protocol, Scope, Service, TLS_PORTS, WELL_KNOWN_PORTS, Words,
        kind, service_of,
    },
};

/// What is not unique in the world, and whose it is.
const PRIVATE: [&str; 6] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
];

const BEFORE: &str = r"
## Scopes, protocols and services

`dtm_container_traffic_*` is a second view of the packets that `dtm_container_network_*` counts, of all networks of a container
together: over all scopes and protocols the sums are the same. What the packet shows at the container counts; no connection
is followed and nothing is looked up elsewhere. So behind address translation the other side is whoever the packet names there.

What is no IP is `other`, and what goes to many is `multicast`, in either direction. For everything else the other side's address
is looked for on the container's own Docker network, then among all that the host routes to, and at last taken for what it is by
itself:

| `scope` | the other side |
|---|---|
";

const WAYS: &str = r"
An address that two have stands for neither. A container on the host's network has no network of its own: nothing of it is
`network`.
";

const AFTER: &str = r"
The ports are those of IANA's registry and the defaults of servers that people run in containers. A port says what to expect, not
what was said: what runs on 8443 need not be TLS. Later fragments have no ports and are `other`. The sum over `service` is the scope
`internet`.

`dtm_container_tcp_syns_*` counts segments with SYN and without ACK, repeated ones included. What gets no answer repeats
them: many more of them than connections are a scan, a flood or a service that is gone.

## Who sends to whom

`dtm_flow_*` is a matrix of containers by name. Whoever is no container that this dtm knows is one of these; no container's name
can begin with `@`:

| | |
|---|---|
| `@host` | an address of the host: its own programs, docker-proxy, and what address translation hides behind it |
| `@private` | an address that is not unique in the world, as for the scope `private`: unknown neighbours on a container's network too, such as containers on another node of a Swarm |
| `@internet` | any other address; also where it is a neighbour's on a network that has such addresses |
| `@multicast` | a group, or everybody; as `destination` |
| `@other` | what is no IP and what has nobody's address. From `@other` to `@other`: what found no place |

- *Each byte is there once*: where a container sends it, with the length that it has there; on the host's network that is without
  Ethernet's header. A container that receives counts only what no container of this host has sent. Not counted again is what
  came from another container's interface or from a Docker bridge, what a socket of a container on the host's network has sent
  (known by its control group), and what has another container's source address.
- *Names* are those that containers had when their interfaces were named. After `docker rename` a pair keeps the old name;
  a container that is made again under the same name goes on in the same series.
- *Places* for pairs are limited (`--flows.max-pairs`, 2,000). What finds none is counted from `@other` to `@other`, and its
  packets in `dtm_bpf_program_errors_total` with the reason `flows_full`. A pair gives its place back once its containers are gone
  and it has been still for `--linger`; where less than a tenth of the places is free, those pairs go first that have been still for
  longest, if for as long as that. Its series goes then, and comes back with all it has moved if the pair speaks again while
  Docker knows containers of both names; of pairs that are not shown, as many are remembered as may have places.
- *A series appears with its first packet*, not from 0: `increase()` misses what was moved before the first scrape that has it.

## What a pathway looks like

Of a packet from left to right. *Receiver* is what its own series have, if it is a container of this host.

| from, to | sender's scope | receiver's scope | matrix |
|---|---|---|---|
| container A to B on one network | `network` | `network` | A → B |
| A to B on another bridge network, at B's own address, where the host's rules let it | `container` | `container`; `host` where it is masqueraded | A → B |
| A to its network's gateway | `host` | | A → `@host` |
| the gateway, or another program of the host, to A | | `host` | `@host` → A |
| A to any other address of the host | `host` | | A → `@host` |
| outside to a published port of A, by address translation | | by the client's address: `internet`, `private` | `@internet` → A, `@private` → A |
| outside to a published port of A, through docker-proxy (without rules, or from IPv6 to IPv4) | | `host`: docker-proxy's, by the gateway's address | `@host` → A |
| the host to a published port of A: through docker-proxy, or translated without it | | `host` | `@host` → A |
| hairpin, translated: A to an address of the host, there a published port of B | `host` | `host` where it is masqueraded, as between two networks; else by A's address | A → `@host`, not again at B |
| the same through docker-proxy, which makes two connections of it | `host` | `host` | A → `@host`, `@host` → B |
| A to B on the host's network | `host` | `container` | A → `@host` |
| A on the host's network to B on a bridge | `container` | `host` | A → B |
| A to B, both on the host's network: loopback | not counted | not counted | |
| overlay, A to B on the same node | `network` | `network` | A → B |
| overlay, A to B on another node | `network` | `network`, there | A → `@private` here, `@private` → B there |
| macvlan or ipvlan, A to B that Docker gave its address | `network` | `network` | A → B |
| macvlan or ipvlan, A to another machine of its network, its gateway included | by its address: `private`, mostly | | A → `@private` |
| A to a group or to everybody, B is one of them | `multicast` | `multicast` | A → `@multicast`, once |
| somebody else to a group, A is one of it | | `multicast` | `@host` → A, `@private` → A |
| ARP from A to B; to A from no container | `other` | `other` | A → `@other`, once; `@other` → A |
| A to the internet and back | `internet` | `internet` | A → `@internet`, `@internet` → A |
";

fn scope(scope: Scope) -> String {
    match scope {
        Scope::Network => format!(
            "an address in a prefix of the container's Docker network (the first {PREFIXES} of its subnets), or link-local in IPv6: \
             another container's, or anybody's there. On macvlan and ipvlan networks, whose link others share, only one that \
             Docker gave out; any other is taken as outside"
        ),
        Scope::Container => "elsewhere: an address that Docker gave another container of this host on a bridge, macvlan or \
                             ipvlan network. Those of an overlay network say something on that network only"
            .to_owned(),
        Scope::Host => "the network's gateway on its bridge, or any other address of the host's".to_owned(),
        Scope::Multicast => "whoever it is: the packet goes to 224.0.0.0/4, ff00::/8, 255.255.255.255 or the last address of one \
                             of the network's IPv4 prefixes"
            .to_owned(),
        Scope::Private => format!(
            "none of the above, and not unique in the world: {}, and link-local in IPv6 that is not on the container's network",
            PRIVATE.join(", ")
        ),
        Scope::Internet => "every other address".to_owned(),
        Scope::Other => "the packet is not IP (ARP), or the address is nobody's: unspecified or loopback".to_owned(),
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP, QUIC included",
        Protocol::Icmp => "ICMP in IPv4, ICMPv6 in IPv6",
        Protocol::Other => "any other above IP, and what is not IP",
    }
}

fn ports(service: Service) -> String {
    let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    match service {
        Service::Cleartext => format!(
            "unencrypted, unless both sides agree on more | {}",
            list(CLEARTEXT_PORTS)
        ),
        Service::Tls => format!("TLS or QUIC from the first byte | {}", list(TLS_PORTS)),
        Service::WellKnown => format!(
            "another well-known service | {}, and every other port from 1 to 1023",
            list(WELL_KNOWN_PORTS)
        ),
        Service::Other => "anything else | every other port; what has no port".to_owned(),
    }
}

/// The sections about where traffic goes.
pub(super) fn sections() -> String {
    let mut text = BEFORE.to_owned();
    for each in Scope::ALL {
        writeln!(text, "| `{}` | {} |", each.as_str(), scope(each)).unwrap();
    }
    text.push_str(WAYS);
    text.push_str("\n| `protocol` | |\n|---|---|\n");
    for each in Protocol::ALL {
        writeln!(text, "| `{}` | {} |", each.as_str(), protocol(each)).unwrap();
    }
    text.push_str(
        "\n`network`, `host` and `internet` are there from 0 for `tcp` and `udp`, every other pair of scope and protocol from its \
         first\npacket on.\n\nWhat is of the scope `internet` is told apart by the other side's port, and where that is `other` by \
         the container's own, which may\nbe the server:\n\n| `service` | what | ports |\n|---|---|---|\n",
    );
    for each in Service::ALL {
        writeln!(text, "| `{}` | {} |", each.as_str(), ports(each)).unwrap();
    }
    text.push_str(AFTER);
    text
}

/// That a port is of the kind in whose row the docs have it.
#[test]
fn ports_are_in_the_row_of_their_service() {
    for each in Service::ALL {
        let row = ports(each);
        let written = row
            .split([',', ' ', '|'])
            .filter_map(|word| word.parse::<u16>().ok())
            .filter(|port| ![1, 1023].contains(port));
        for port in written {
            assert_eq!(service_of(port), each, "{port}");
        }
    }
    for port in 1..=u16::MAX {
        let listed = [CLEARTEXT_PORTS, TLS_PORTS].concat().contains(&port);
        let expected = !listed && (port < 1024 || WELL_KNOWN_PORTS.contains(&port));
        assert_eq!(service_of(port) == Service::WellKnown, expected, "{port}");
    }
}

#[test]
fn private_prefixes_are_private_at_both_ends_and_no_further() {
    for prefix in PRIVATE {
        let (address, bits) = prefix.split_once('/').unwrap();
        let (bits, address) = (bits.parse::<u32>().unwrap(), address.parse::<IpAddr>().unwrap());
        let (first, size) = match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 1_u128 << (32 - bits)),
            IpAddr::V6(address) => (u128::from(address), 1_u128 << (128 - bits)),
        };
        let kind_of = |number: u128| {
            kind(Words::of(match address {
                IpAddr::V4(_) => Address::v4((number as u32).to_be_bytes()),
                IpAddr::V6(_) => Address(number.to_be_bytes()),
            }))
        };
        for inside in [first, first + size - 1] {
            assert_eq!(kind_of(inside), AddressKind::Private, "{prefix}");
        }
        for outside in [first - 1, first + size] {
            assert_ne!(kind_of(outside), AddressKind::Private, "{prefix}");
        }
    }
}
