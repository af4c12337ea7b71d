//! Ethernet and its VLAN tags.

use super::{Far, Packet, be16};

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q.
pub(super) const ETHERTYPE_VLAN: u16 = 0x8100;
/// 802.1ad, the outer tag of two.
pub(super) const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// What was used for the outer tag before 802.1ad.
pub(super) const ETHERTYPE_OLD_SERVICE_VLAN: u16 = 0x9100;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET_LENGTH: usize = 14;
/// Bytes of a VLAN tag.
const TAG_LENGTH: usize = 4;

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
    let mut link = untagged(packet, offset)?;
    for _ in 0..MAX_TAGS {
        if !matches!(
            link.ethertype,
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN | ETHERTYPE_OLD_SERVICE_VLAN
        ) {
            break;
        }
        let (ethertype, offset) = below_tag(&Far(packet), link.offset)?;
        link = Link {
            ethertype,
            offset,
            tags: link.tags + 1,
        };
    }
    Some(link)
}

/// The Ethernet header at `offset` alone.
#[inline(always)]
pub(super) fn untagged<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Link> {
    let header: [u8; ETHERNET_LENGTH] = packet.read(offset)?;
    Some(Link {
        ethertype: be16(header[12], header[13]),
        offset: offset + ETHERNET_LENGTH,
        tags: 0,
    })
}

/// What the tag at `offset` (its control information; its own type is before it) carries, and where.
#[inline(always)]
pub(super) fn below_tag<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<(u16, usize)> {
    let [_, _, high, low] = packet.read::<TAG_LENGTH>(offset)?;
    Some((be16(high, low), offset + TAG_LENGTH))
}
