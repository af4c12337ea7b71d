//! From a GSO or GRO buffer to the packets a wire carries.

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Packet, Transport, be16, ethernet, network,
    protocols::{GRE, IPIP, IPV6, SCTP, TCP, UDP},
    within,
};

/// `GSO_BY_FRAGS` of the kernel: the segments differ in size (SCTP).
const GSO_BY_FRAGS: u32 = 0xffff;

/// Bytes of a VLAN tag.
const TAG_LENGTH: u64 = 4;

/// `EtherType` with which GRE announces an Ethernet frame ("transparent Ethernet bridging").
const ETHERTYPE_BRIDGING: u16 = 0x6558;

/// Where VXLAN is: IANA's port, which Docker's overlay networks use, and Linux' own from before.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];

/// Bytes of a UDP header.
const UDP_LENGTH: usize = 8;
/// Bytes of SCTP's common header.
const SCTP_LENGTH: usize = 12;
/// Bytes of a VXLAN header.
const VXLAN_LENGTH: usize = 8;

/// The headers of a buffer that all its segments get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeaders {
    /// Bytes before the payload, as each segment has them on the wire.
    pub length: u16,
    /// Bytes before the payload that only the buffer has: IPv6's jumbo option.
    pub jumbo: u8,
}

/// What the kernel says about a buffer's segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// `skb_shared_info.gso_segs`; 0 where whoever made the buffer did not count.
    pub gso_segs: u32,
    /// `skb_shared_info.gso_size`: payload bytes of a segment, 0 for a plain packet.
    pub gso_size: u32,
    /// Whether a VLAN tag is kept beside the bytes.
    pub tag_in_metadata: bool,
}

/// What a wire carries for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Packets.
    pub packets: u32,
    /// Their bytes, each with its headers.
    pub bytes: u64,
}

/// What a wire carries for a buffer of `len` bytes.
///
/// With `headers` unknown the packets are right wherever the kernel counted them, and the bytes lack what is
/// repeated.
#[inline(always)]
pub fn wire(len: u32, segmentation: Segmentation, headers: Option<SegmentHeaders>) -> Wire {
    let SegmentHeaders { length, jumbo } = headers.unwrap_or(SegmentHeaders { length: 0, jumbo: 0 });
    let in_buffer = u32::from(length) + u32::from(jumbo);
    let packets = match segmentation {
        Segmentation { gso_size: 0, .. }
        | Segmentation {
            gso_segs: 0,
            gso_size: GSO_BY_FRAGS,
            ..
        } => 1,
        Segmentation {
            gso_segs: 0,
            gso_size,
            ..
        } => len.saturating_sub(in_buffer).div_ceil(gso_size).max(1),
        Segmentation { gso_segs, .. } => gso_segs,
    };
    let repeated = if segmentation.gso_size == 0 {
        0
    } else {
        u64::from(length) * u64::from(packets - 1)
    };
    let jumbo = if segmentation.gso_size == 0 {
        0
    } else {
        u32::from(jumbo)
    };
    let tags = if segmentation.tag_in_metadata {
        TAG_LENGTH * u64::from(packets)
    } else {
        0
    };
    // 2^32 · (1 + 2^16 + 4) fits.
    Wire {
        packets,
        bytes: u64::from(len.saturating_sub(jumbo)) + repeated + tags,
    }
}

/// The headers that every segment of a GSO or GRO buffer gets: everything before the payload of the innermost
/// TCP, UDP or SCTP, through one tunnel at most.
#[inline(always)]
pub fn segment_header_length<P: Packet + ?Sized>(packet: &P) -> Option<SegmentHeaders> {
    let link = ethernet(packet, 0)?;
    let outer = whole_packet(packet, link.ethertype, link.offset)?;
    let (ethertype, offset) = match outer.protocol {
        IPIP => (ETHERTYPE_IPV4, outer.offset),
        IPV6 => (ETHERTYPE_IPV6, outer.offset),
        GRE => below_gre(packet, outer.offset)?,
        UDP => match below_vxlan(packet, outer.offset)? {
            Some(offset) => (ETHERTYPE_BRIDGING, offset),
            None => return headers(outer.offset + UDP_LENGTH, outer.jumbo),
        },
        _ => return headers(transport_end(packet, outer)?, outer.jumbo),
    };
    let (ethertype, offset) = if ethertype == ETHERTYPE_BRIDGING {
        let inner_link = ethernet(packet, offset)?;
        (inner_link.ethertype, inner_link.offset)
    } else {
        (ethertype, offset)
    };
    let inner = whole_packet(packet, ethertype, offset)?;
    headers(transport_end(packet, inner)?, outer.jumbo + inner.jumbo)
}

/// The transport header below the IP header at `offset`. No fragment is ever segmented.
#[inline(always)]
fn whole_packet<P: Packet + ?Sized>(packet: &P, ethertype: u16, offset: usize) -> Option<Transport> {
    let transport = network(packet, ethertype, offset)?.transport(packet)?;
    (transport.fragment == Fragment::No).then_some(transport)
}

#[inline(always)]
fn headers(end: usize, jumbo: u8) -> Option<SegmentHeaders> {
    let length = end.checked_sub(jumbo as usize)?;
    Some(SegmentHeaders {
        length: u16::try_from(length).ok()?,
        jumbo,
    })
}

/// Where the payload of a TCP, UDP or SCTP packet starts.
#[inline(always)]
fn transport_end<P: Packet + ?Sized>(packet: &P, transport: Transport) -> Option<usize> {
    let length = match transport.protocol {
        TCP => {
            let [words] = packet.read(transport.offset.checked_add(12)?)?;
            let words = words >> 4;
            if words < 5 {
                return None;
            }
            words as usize * 4
        }
        UDP => UDP_LENGTH,
        SCTP => SCTP_LENGTH,
        _ => return None,
    };
    within(packet, transport.offset + length)
}

/// What GRE carries, and where (RFC 2784, RFC 2890).
#[inline(always)]
fn below_gre<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<(u16, usize)> {
    let [flags, version, high, low] = packet.read(offset)?;
    // Routing is RFC 1701's, and version 1 is PPTP's: no kernel segments either.
    if flags & 0x40 != 0 || version & 7 != 0 {
        return None;
    }
    let optional = (flags >> 7 & 1) + (flags >> 5 & 1) + (flags >> 4 & 1);
    Some((be16(high, low), offset + 4 + optional as usize * 4))
}

/// Where the frame in a VXLAN datagram starts; `Some(None)` for any other datagram (RFC 7348 §5).
#[inline(always)]
fn below_vxlan<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Option<usize>> {
    let header: [u8; UDP_LENGTH] = packet.read(offset)?;
    let port = be16(header[2], header[3]);
    let [iana, linux] = VXLAN_PORTS;
    if port != iana && port != linux {
        return Some(None);
    }
    let header: [u8; VXLAN_LENGTH] = packet.read(offset + UDP_LENGTH)?;
    let has_identifier = header[0] & 0x08 != 0;
    Some(has_identifier.then_some(offset + UDP_LENGTH + VXLAN_LENGTH))
}
