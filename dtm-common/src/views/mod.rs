//! The second view of a slot's traffic: by where the other side is and by protocol; and what falls out of the same look
//! at a packet: connection requests, and what services of the internet carry.

mod addresses;
mod services;
mod site;

#[cfg(test)]
mod tests;

pub use addresses::{AddressKind, Words, kind};
pub use services::{
    CLEARTEXT_PORTS, PORT_WORDS, PORTS_PER_WORD, SERVICES, Service, TLS_PORTS, WELL_KNOWN_PORTS, ports,
    service, service_of,
};
pub use site::{
    PEER_BUCKETS, PEER_HOST, PEER_INTERNET, PEER_MULTICAST, PEER_OTHER, PEER_PRIVATE, PEERS_ENTRIES,
    PREFIXES, PeerEntry, PeerKey, Prefix, ROUTED, SENDERS_ENTRIES, SITE_BRIDGE, SITE_COUNTED, SITE_STRICT,
    Site, is_pseudo,
};

use core::{iter::Sum, ops::AddAssign};

use crate::packet::protocols;

/// Slots in a chunk of the views' memory: chunks are made when the first of their slots is given out.
pub const CHUNK: u32 = 64;

/// How many scopes there are.
pub const SCOPES: usize = 7;
/// How many protocols are told apart.
pub const PROTOCOLS: usize = 4;

/// Where the other side of a packet is, as the container sees it. The number is its index in [`ViewTally::cells`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In a prefix of the interface's network.
    Network,
    /// Another local container.
    Container,
    /// An address of the host.
    Host,
    /// Multicast and broadcast.
    Multicast,
    /// An address that is not unique in the world.
    Private,
    /// Every other unicast address.
    Internet,
    /// Not IP, or an address that is nobody's.
    Other,
}

impl Scope {
    /// Every scope, by its number.
    pub const ALL: [Self; SCOPES] = [
        Self::Network,
        Self::Container,
        Self::Host,
        Self::Multicast,
        Self::Private,
        Self::Internet,
        Self::Other,
    ];

    /// The `scope` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Container => "container",
            Self::Host => "host",
            Self::Multicast => "multicast",
            Self::Private => "private",
            Self::Internet => "internet",
            Self::Other => "other",
        }
    }
}

/// A packet's protocol above IP. The number is its index in [`ViewTally::cells`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP of the packet's own IP.
    Icmp,
    /// Any other, and what is not IP.
    Other,
}

impl Protocol {
    /// Every protocol, by its number.
    pub const ALL: [Self; PROTOCOLS] = [Self::Tcp, Self::Udp, Self::Icmp, Self::Other];

    /// The `protocol` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }

    /// Of an IP protocol number; ICMP is another number in either IP.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "the kernel side has no calls to spare per packet"
    )]
    pub const fn of(number: u8, is_ipv6: bool) -> Self {
        match (number, is_ipv6) {
            (protocols::TCP, _) => Self::Tcp,
            (protocols::UDP, _) => Self::Udp,
            (protocols::ICMP, false) | (protocols::ICMPV6, true) => Self::Icmp,
            _ => Self::Other,
        }
    }
}

/// What one cell has counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes at the hook, as [`Tally::bytes`](crate::traffic::Tally::bytes).
    pub bytes: u64,
    /// Wire packets, as [`Tally::packets`](crate::traffic::Tally::packets).
    pub packets: u64,
}

impl AddAssign for Volume {
    #[inline]
    fn add_assign(&mut self, Self { bytes, packets }: Self) {
        self.bytes += bytes;
        self.packets += packets;
    }
}

impl Sum for Volume {
    fn sum<I: Iterator<Item = Self>>(volumes: I) -> Self {
        volumes.fold(Self::default(), |mut sum, volume| {
            sum += volume;
            sum
        })
    }
}

/// One direction of a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewTally {
    /// By scope, then protocol.
    pub cells: [[Volume; PROTOCOLS]; SCOPES],
    /// Bytes of the scope `internet`, by [`Service`].
    pub services: [u64; SERVICES],
    /// TCP segments with SYN and without ACK.
    pub syns: u64,
    /// TCP segments with RST. A control group's programs do not see those that the kernel itself sends.
    pub resets: u64,
    /// Fills the cache line; always zero.
    pub reserved: [u64; 2],
}

/// The second view of one slot on one CPU: whole cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewCounters {
    /// What the container was offered.
    pub receive: ViewTally,
    /// What the container sent.
    pub transmit: ViewTally,
}

const _: () = assert!(size_of::<ViewCounters>() == 1024);

impl ViewTally {
    fn words_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Self {
            cells,
            services,
            syns,
            resets,
            reserved,
        } = self;
        let cells = cells.iter_mut().flatten();
        cells
            .flat_map(|Volume { bytes, packets }| [bytes, packets])
            .chain(services)
            .chain([syns, resets])
            .chain(reserved)
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        let Self {
            cells,
            services,
            syns,
            resets,
            reserved,
        } = *self;
        let cells = cells.into_iter().flatten();
        cells
            .flat_map(|Volume { bytes, packets }| [bytes, packets])
            .chain(services)
            .chain([syns, resets])
            .chain(reserved)
    }
}

impl ViewCounters {
    /// All its words, in the order of the memory. The place of a word is what the journal knows it by: one that is new
    /// takes a reserved one.
    pub fn words_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Self { receive, transmit } = self;
        receive.words_mut().chain(transmit.words_mut())
    }

    /// The same, to read.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.receive.words().chain(self.transmit.words())
    }
}

#[cfg(not(target_arch = "bpf"))]
mod pod {
    #![expect(unsafe_code, reason = "Pod is an unsafe marker trait")]

    // SAFETY: `repr(C)`, only `u64` fields, no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::ViewCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PeerKey {}
    // SAFETY: as above; its `u32` fields fill a whole word.
    unsafe impl aya::Pod for super::PeerEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Site {}
}
