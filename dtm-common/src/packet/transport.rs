//! From the IP header to the transport header: options, extension headers, fragments.

use super::{Family, Far, Network, Packet, be16};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that the parser tells apart.
pub mod protocols {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP of IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 without anything above it.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

use protocols::{AUTHENTICATION, DESTINATION, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, ROUTING, SHIM6};

/// Extension headers that are looked through. RFC 8200 §4.1 has seven in its order; hosts send one or two.
pub(super) const MAX_EXTENSIONS: usize = 8;

/// Whether a packet is a part of a bigger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    No,
    /// The first part, which has the transport header.
    First,
    /// A later part: what follows the IP headers is data.
    Later,
}

impl Fragment {
    #[inline(always)]
    pub(super) const fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::No,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

/// What follows the IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// IP protocol number of the first header that is no extension; where the chain says "no next header" or
    /// ends in encryption, that number.
    pub protocol: u8,
    /// Where it starts.
    pub offset: usize,
    /// Whether it is there at all.
    pub fragment: Fragment,
}

impl Network {
    /// What follows this header, its options and its extensions, if it is there.
    #[inline(always)]
    pub fn transport<P: Packet + ?Sized>(&self, packet: &P) -> Option<Transport> {
        let transport = self.follow(packet)?;
        // Options and extensions may claim more than there is.
        packet.read_far::<2>(transport.offset - 2)?;
        Some(transport)
    }

    /// What the headers say follows them; it may be cut off. Of IPv4, and of IPv6 without extensions, this reads nothing.
    #[inline(always)]
    pub(super) fn follow<P: Packet + ?Sized>(&self, packet: &P) -> Option<Transport> {
        let mut transport = Transport {
            protocol: self.next_header,
            offset: self.offset + self.header_length,
            fragment: self.fragment,
        };
        if self.family == Family::Ipv6 {
            for _ in 0..MAX_EXTENSIONS {
                if transport.fragment == Fragment::Later || !is_extension(transport.protocol) {
                    break;
                }
                let extension = extension(&Far(packet), transport.protocol, transport.offset)?;
                transport = Transport {
                    protocol: extension.next_header,
                    offset: extension.end,
                    fragment: extension.fragment.unwrap_or(transport.fragment),
                };
            }
            // A longer chain is nobody's traffic; where it leads is not worth the reads.
            if transport.fragment != Fragment::Later && is_extension(transport.protocol) {
                return None;
            }
        }
        Some(transport)
    }
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    /// Protocol number of what follows.
    pub(super) next_header: u8,
    /// Where that starts, if it is there.
    pub(super) end: usize,
    /// What a fragment header says.
    pub(super) fragment: Option<Fragment>,
}

/// The extension header at `offset`.
#[inline(always)]
pub(super) fn extension<P: Packet + ?Sized>(packet: &P, protocol: u8, offset: usize) -> Option<Extension> {
    // The shortest is 8 bytes long.
    let header: [u8; 8] = packet.read(offset)?;
    let [next_header, units, ..] = header;
    if protocol == FRAGMENT {
        let field = be16(header[2], header[3]);
        let fragment = Some(Fragment::new(field >> 3, field & 1 != 0));
        return Some(Extension {
            next_header,
            end: offset + 8,
            fragment,
        });
    }
    let units = units as usize;
    let length = if protocol == AUTHENTICATION {
        (units + 2) * 4
    } else {
        (units + 1) * 8
    };
    Some(Extension {
        next_header,
        end: offset + length,
        fragment: None,
    })
}

/// IPv6 extension headers that tell their length, by their numbers: below 64, and from 128 on.
const EXTENSIONS: [u64; 2] = {
    let mut sets = [0; 2];
    let all = [
        HOP_BY_HOP,
        ROUTING,
        FRAGMENT,
        AUTHENTICATION,
        DESTINATION,
        MOBILITY,
        HIP,
        SHIM6,
    ];
    let mut at = 0;
    while at < all.len() {
        sets[(all[at] >> 7) as usize] |= 1 << (all[at] & 63);
        at += 1;
    }
    sets
};

/// Whether `protocol` is one of [`EXTENSIONS`]: two branches, for the kernel's verifier follows each.
#[inline(always)]
pub(super) const fn is_extension(protocol: u8) -> bool {
    let [low, high] = EXTENSIONS;
    let set = if protocol & 0x80 == 0 { low } else { high };
    protocol & 0x40 == 0 && set >> (protocol & 63) & 1 == 1
}
