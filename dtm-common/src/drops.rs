//! Dropped packets: who lost them, which way they went, and the kernel's reason.

use core::net::IpAddr;

/// Entries of the drop map. An entry is one (owner, reason, direction) that ever happened: a handful per
/// container. When it is full, `ERRORS` counts what could not be entered.
pub const DROPS_ENTRIES: u32 = 16_384;

/// Containers' network namespaces the kernel side can tell apart.
pub const NETNS_ENTRIES: u32 = 8_192;

/// Containers' addresses the kernel side can tell apart.
pub const ADDRESSES_ENTRIES: u32 = 32_768;

/// Control groups of containers on the host's network the kernel side can tell apart.
pub const GROUPS_ENTRIES: u32 = 8_192;

/// Functions of the kernel that end a packet's life with `kfree_skb` and no reason when they have handled it.
///
/// `tcp_v4_rcv` and `tcp_v6_rcv` so free what a connection in `TIME_WAIT` answers, the last FIN of a clean end among it;
/// `icmpv6_rcv` every message but echoes ("assume failure and preserve the status quo"); `ip6_mc_input` multicast that
/// a bridge flooded to somebody who has not joined the group, and for IPv4 `ip_rcv_finish_core`, or the function that the
/// compiler has put it into. What the first of these really throw away has a reason; those from [`HANDLE_MULTICAST`] on free
/// other packets too.
pub const HANDLERS: [&str; 8] = [
    "tcp_v4_rcv",
    "tcp_v6_rcv",
    "icmpv6_rcv",
    "ip6_mc_input",
    "ip_rcv_finish_core",
    "ip_rcv_finish",
    "ip_list_rcv_finish",
    "ip_sublist_rcv",
];

/// From which one of [`HANDLERS`] on only what is sent to a group of IPv4 has been handled.
pub const HANDLE_MULTICAST: usize = 4;

/// Nobody known: the drop is counted host-wide only.
pub const OWNER_NONE: u32 = 0;

/// Set in the owner of an interface that has no container's name yet; the rest of the bits are its slot.
/// The daemon moves such counts to the container once it is known.
pub const OWNER_PENDING: u32 = 1 << 31;

/// The direction could not be told.
pub const DROP_UNKNOWN: u32 = 0;
/// On its way to the container.
pub const DROP_RECEIVE: u32 = 1;
/// On its way from the container.
pub const DROP_TRANSMIT: u32 = 2;

/// What a drop is counted under.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DropKey {
    /// The daemon's number for the container, or [`OWNER_NONE`], or a slot with [`OWNER_PENDING`].
    pub owner: u32,
    /// The kernel's `enum skb_drop_reason`; its numbers differ between kernels.
    pub reason: u32,
    /// [`DROP_UNKNOWN`], [`DROP_RECEIVE`] or [`DROP_TRANSMIT`].
    pub direction: u32,
}

/// What was lost under a key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropTally {
    /// Wire packets: a GSO buffer counts as its segments.
    pub packets: u64,
    /// Bytes of the buffers as they were when they were dropped: which headers are left depends on the layer.
    pub bytes: u64,
}

/// An IP address; IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// The IPv4-mapped form of `octets`.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "the kernel side has no calls to spare per packet"
    )]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address.octets()),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

const _: () = assert!(size_of::<DropKey>() == 12);
const _: () = assert!(size_of::<DropTally>() == 16);

#[cfg(not(target_arch = "bpf"))]
mod pod {
    #![expect(unsafe_code, reason = "Pod is an unsafe marker trait")]

    // SAFETY: `repr(C)`, only integers of one width, no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::DropKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::DropTally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Address {}
}
