//! Where a slot's interface is, and who is where: what the daemon tells the kernel side.

use super::Words;

/// Prefixes of one interface: one of either IP, and as many again for networks with several.
pub const PREFIXES: usize = 4;

/// The space of all addresses that the host routes to.
pub const ROUTED: u64 = 0;

/// Buckets of addresses that stand for somebody, 32 bytes each: four times as many as a thousand containers with an address
/// in either IP need.
pub const PEER_BUCKETS: u32 = 1 << 14;

/// Addresses whose bucket was taken. The memory of an entry is taken when it is made.
pub const PEERS_ENTRIES: u32 = 32_768;

/// Control groups of containers on the host's network.
pub const SENDERS_ENTRIES: u32 = 8_192;

/// Set where the slot's traffic is a container's, or may turn out to be.
pub const SITE_COUNTED: u32 = 1;
/// Set for a Docker bridge: what comes from there was sent by a container that is counted itself.
pub const SITE_BRIDGE: u32 = 2;
/// Set where an address in a prefix is the network's only if Docker gave it out: others share the link (macvlan, ipvlan).
pub const SITE_STRICT: u32 = 4;

/// An address of the host.
pub const PEER_HOST: u32 = u32::MAX;
/// Whoever has an address that is not unique in the world.
pub const PEER_PRIVATE: u32 = u32::MAX - 1;
/// Whoever has any other address.
pub const PEER_INTERNET: u32 = u32::MAX - 2;
/// Groups.
pub const PEER_MULTICAST: u32 = u32::MAX - 3;
/// Whoever is known by no address, and what did not fit.
pub const PEER_OTHER: u32 = u32::MAX - 4;

/// Whether a number stands for no interface.
pub const fn is_pseudo(number: u32) -> bool {
    number >= PEER_OTHER
}

/// A range of addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub first: Words,
    /// Ones where an address in it has the same bits.
    pub mask: Words,
}

impl Prefix {
    /// One that no address is in.
    pub const NONE: Self = Self {
        first: Words([u64::MAX; 2]),
        mask: Words([0; 2]),
    };

    /// That of `address` with so many leading bits of 128.
    pub const fn new(address: Words, bits: u32) -> Self {
        let mask = match bits {
            0 => 0,
            1..128 => u128::MAX << (128 - bits),
            _ => u128::MAX,
        };
        let mask = [(mask >> 64) as u64, mask as u64];
        let Words([high, low]) = address;
        Self {
            first: Words([high & mask[0], low & mask[1]]),
            mask: Words(mask),
        }
    }

    /// Whether the address is in it.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "the kernel side has no calls to spare per packet"
    )]
    pub const fn has(&self, address: Words) -> bool {
        let (Words([high, low]), Words(first), Words(mask)) = (address, self.first, self.mask);
        high & mask[0] == first[0] && low & mask[1] == first[1]
    }

    /// An IPv4 network's last address, which is everybody's on it (RFC 919); 0 where it has none.
    pub const fn broadcast(&self) -> u32 {
        let host = !self.mask.0[1] as u32;
        match self.first.v4() {
            // A network of one or two addresses has none (RFC 3021).
            Some(first) if host > 1 => first | host,
            _ => 0,
        }
    }
}

/// Where a slot's interface is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The daemon's number for this life of the interface, in [`FlowKey`](crate::flows::FlowKey).
    pub number: u32,
    /// [`SITE_COUNTED`], [`SITE_BRIDGE`], [`SITE_STRICT`]; 0: nothing but totals is counted.
    pub flags: u32,
    /// The daemon's number for the network's addresses, or [`ROUTED`] where the interface has no network of its own.
    pub space: u64,
    /// Of each prefix [`Prefix::broadcast`].
    pub broadcasts: [u32; PREFIXES],
    /// The network's prefixes; the rest is [`Prefix::NONE`].
    pub prefixes: [Prefix; PREFIXES],
}

impl Site {
    /// The same, with these prefixes.
    #[must_use]
    pub const fn with_prefixes(mut self, prefixes: [Prefix; PREFIXES]) -> Self {
        let [one, two, three, four] = &prefixes;
        self.broadcasts = [
            one.broadcast(),
            two.broadcast(),
            three.broadcast(),
            four.broadcast(),
        ];
        self.prefixes = prefixes;
        self
    }
}

impl Default for Site {
    fn default() -> Self {
        Self {
            number: 0,
            flags: 0,
            space: ROUTED,
            broadcasts: [0; PREFIXES],
            prefixes: [Prefix::NONE; PREFIXES],
        }
    }
}

/// An address in a space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// The network's, or [`ROUTED`].
    pub space: u64,
    /// The address.
    pub address: Words,
}

impl PeerKey {
    /// The bucket it is looked up in.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "the kernel side has no calls to spare per packet"
    )]
    pub const fn bucket(self) -> u32 {
        let Words([high, low]) = self.address;
        // Fibonacci hashing: the upper bits depend on all of them.
        let mixed = (low ^ high.rotate_left(32) ^ self.space).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> (u64::BITS - PEER_BUCKETS.trailing_zeros())) as u32
    }
}

/// Who has an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerEntry {
    /// Which address.
    pub key: PeerKey,
    /// The number of an interface, or [`PEER_HOST`]; 0 where the bucket is empty.
    pub number: u32,
    /// Whether others that belong here are elsewhere: 0 or 1.
    pub has_more: u32,
}

const _: () = assert!(size_of::<PeerKey>() == 24);
const _: () = assert!(size_of::<PeerEntry>() == 32);
const _: () = assert!(size_of::<Site>() == 16 + (4 + 32) * PREFIXES);
