//! Ethernet and its VLAN tags.

use super::{Packet, be16};

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// 802.1Q, 802.1ad, and what was used for the outer tag before 802.1ad.
const TAG_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Tags that are looked through: `QinQ` and one to spare. What is below a fourth one is unknown.
const MAX_TAGS: u8 = 3;

/// What an Ethernet header and its tags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The protocol below the last tag.
    pub ethertype: u16,
    /// Where that protocol's header starts.
    pub offset: usize,
    /// VLAN tags in the frame. A tag the kernel took off into metadata is not among them.
    pub tags: u8,
}

/// The Ethernet header at `offset`, with its VLAN tags.
#[inline(always)]
pub fn ethernet<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Link> {
    let [high, low] = packet.read(offset.checked_add(12)?)?;
    let mut link = Link {
        ethertype: be16(high, low),
        offset: offset + 14,
        tags: 0,
    };
    for _ in 0..MAX_TAGS {
        if !is_tag(link.ethertype) {
            break;
        }
        let [_, _, high, low] = packet.read(link.offset)?;
        link = Link {
            ethertype: be16(high, low),
            offset: link.offset + 4,
            tags: link.tags + 1,
        };
    }
    Some(link)
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    let [q, ad, old] = TAG_TYPES;
    ethertype == q || ethertype == ad || ethertype == old
}
