//! Who the other side of a packet is, by its address.

use dtm_common::{
    packet::Head,
    traffic::Direction,
    views::{
        AddressKind, PEER_HOST, PEER_INTERNET, PEER_MULTICAST, PEER_OTHER, PEER_PRIVATE, PeerKey, ROUTED,
        SITE_STRICT, Scope, Site, Words, kind,
    },
};

use crate::maps::{PEERS, PEERS_OVERFLOW};

/// The other side of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    /// Where it is.
    pub(crate) scope: Scope,
    /// Who it is: the number of an interface, or `PEER_*`.
    pub(crate) number: u32,
}

/// The other side of a packet that an interface here sends or is offered.
#[inline(always)]
pub(crate) fn find(site: &Site, head: &Head, direction: Direction) -> Peer {
    if !head.is_ip {
        return Peer {
            scope: Scope::Other,
            number: PEER_OTHER,
        };
    }
    let destination = head.destination;
    let is_to_many = kind(destination) == AddressKind::Multicast || is_broadcast(site, destination);
    match direction {
        Direction::Transmit if is_to_many => Peer {
            scope: Scope::Multicast,
            number: PEER_MULTICAST,
        },
        Direction::Transmit => at(site, destination),
        Direction::Receive => {
            let sender = at(site, head.source);
            Peer {
                scope: if is_to_many {
                    Scope::Multicast
                } else {
                    sender.scope
                },
                ..sender
            }
        }
    }
}

/// Whoever has this address, seen from here.
#[inline(always)]
fn at(site: &Site, address: Words) -> Peer {
    let kind = kind(address);
    let (scope, number) = match kind {
        AddressKind::Multicast => (Scope::Multicast, PEER_MULTICAST),
        AddressKind::Nobody => (Scope::Other, PEER_OTHER),
        AddressKind::LinkLocal | AddressKind::Private => (Scope::Private, PEER_PRIVATE),
        AddressKind::Global => (Scope::Internet, PEER_INTERNET),
    };
    let by_itself = Peer { scope, number };
    if matches!(kind, AddressKind::Multicast | AddressKind::Nobody) {
        return by_itself;
    }
    let is_on_link = kind == AddressKind::LinkLocal;
    if site.space != ROUTED && (is_on_link || is_inside(site, address)) {
        let found = peer(site.space, address);
        // Others may share the link: of these, Docker has not given the address to anybody.
        if found != NOBODY || site.flags & SITE_STRICT == 0 {
            return known(found, Scope::Network, by_itself.number);
        }
    }
    // On its own link only does it say anything.
    if is_on_link {
        return by_itself;
    }
    match peer(ROUTED, address) {
        NOBODY => by_itself,
        found => known(found, Scope::Container, found),
    }
}

/// Whoever was found; `unknown` is the number of whom nothing is known but where he is.
#[inline(always)]
fn known(found: u32, scope: Scope, unknown: u32) -> Peer {
    match found {
        PEER_HOST => Peer {
            scope: Scope::Host,
            number: PEER_HOST,
        },
        NOBODY => Peer {
            scope,
            number: unknown,
        },
        number => Peer { scope, number },
    }
}

#[inline(always)]
fn is_inside(site: &Site, address: Words) -> bool {
    let [one, two, three, four] = &site.prefixes;
    one.has(address) || two.has(address) || three.has(address) || four.has(address)
}

#[inline(always)]
fn is_broadcast(site: &Site, address: Words) -> bool {
    let [one, two, three, four] = site.broadcasts;
    match address.v4() {
        // A prefix without such an address has 0 in its place.
        Some(0) | None => false,
        Some(address) => address == one || address == two || address == three || address == four,
    }
}

/// The number of nobody.
const NOBODY: u32 = 0;

#[inline(always)]
fn peer(space: u64, address: Words) -> u32 {
    let key = PeerKey { space, address };
    let Some(entry) = PEERS.get_ptr(key.bucket()) else {
        return NOBODY;
    };
    // SAFETY: the verifier has checked the pointer; the daemon may change what is there, which is integers.
    let entry = unsafe { &*entry };
    if entry.key == key {
        return entry.number;
    }
    if entry.has_more == 0 {
        return NOBODY;
    }
    match PEERS_OVERFLOW.get_ptr(key) {
        // SAFETY: the verifier has checked the pointer.
        Some(number) => unsafe { *number },
        None => NOBODY,
    }
}
