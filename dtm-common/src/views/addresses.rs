//! What an IP address says by itself.
#![expect(
    clippy::inline_always,
    reason = "the kernel side has no calls to spare per packet"
)]

use crate::drops::Address;

/// An address as two numbers, the more significant first: IPv4 as IPv4-mapped IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Words(pub [u64; 2]);

/// The upper half of the lower word of an IPv4-mapped address.
const MAPPED: u64 = 0xffff;

impl Words {
    /// Of an address in a packet.
    #[inline(always)]
    pub const fn of(address: Address) -> Self {
        let all = u128::from_be_bytes(address.0);
        Self([(all >> 64) as u64, all as u64])
    }

    /// Of an IPv4 address as a number.
    #[inline(always)]
    pub const fn v4_of(address: u32) -> Self {
        Self([0, MAPPED << 32 | address as u64])
    }

    /// The IPv4 address, if it is one.
    #[inline(always)]
    pub const fn v4(self) -> Option<u32> {
        let Self([high, low]) = self;
        if high == 0 && low >> 32 == MAPPED {
            Some(low as u32)
        } else {
            None
        }
    }
}

/// What kind of address it is, without regard to any network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// Of a group, or everybody's.
    Multicast,
    /// IPv6 link-local (`fe80::/10`): says something on its own link only.
    LinkLocal,
    /// RFC 1918, RFC 4193, the carriers' 100.64.0.0/10 (RFC 6598), and 169.254.0.0/16, which hosts give to services of
    /// theirs that can be reached over a gateway.
    Private,
    /// Unspecified or loopback: nobody's on a network.
    Nobody,
    /// Every other.
    Global,
}

/// What kind of address this is.
#[inline(always)]
pub const fn kind(address: Words) -> AddressKind {
    if let Some(address) = address.v4() {
        return v4(address);
    }
    let Words([high, low]) = address;
    match high >> 48 {
        0xff00.. => AddressKind::Multicast,
        0xfe80..0xfec0 => AddressKind::LinkLocal,
        0xfc00..0xfe00 => AddressKind::Private,
        0 if high == 0 && low <= 1 => AddressKind::Nobody,
        _ => AddressKind::Global,
    }
}

#[inline(always)]
const fn v4(address: u32) -> AddressKind {
    match address {
        // 10/8, 100.64/10, 169.254/16, 172.16/12, 192.168/16
        0x0a00_0000..0x0b00_0000
        | 0x6440_0000..0x6480_0000
        | 0xa9fe_0000..0xa9ff_0000
        | 0xac10_0000..0xac20_0000
        | 0xc0a8_0000..0xc0a9_0000 => AddressKind::Private,
        // 224/4, and everybody on the link
        0xe000_0000..0xf000_0000 | 0xffff_ffff => AddressKind::Multicast,
        // 0/8 and 127/8
        0x0000_0000..0x0100_0000 | 0x7f00_0000..0x8000_0000 => AddressKind::Nobody,
        _ => AddressKind::Global,
    }
}
