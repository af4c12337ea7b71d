//! From a GSO or GRO buffer to the packets a wire carries.

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, Far, Fragment, Network, Packet, be16,
    link::{ETHERTYPE_OLD_SERVICE_VLAN, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, below_tag, untagged},
    network,
    network::{IPV4_LENGTH, IPV6_LENGTH},
    network_from_version,
    protocols::{GRE, HOP_BY_HOP, IPIP, IPV6, SCTP, TCP, UDP},
    transport::{extension, is_extension},
};

/// `GSO_BY_FRAGS` of the kernel: the segments differ in size (SCTP).
const GSO_BY_FRAGS: u32 = 0xffff;

/// Bytes of a VLAN tag.
const TAG_LENGTH: u64 = 4;

/// Headers that are looked through: Ethernet, tags, IP, extensions, and the same again in a tunnel.
const MAX_HEADERS: usize = 16;

/// `EtherType` with which GRE announces an Ethernet frame ("transparent Ethernet bridging").
const ETHERTYPE_BRIDGING: u16 = 0x6558;

/// IANA's port of VXLAN, which Docker's overlay networks use.
const VXLAN_PORT: u16 = 4789;
/// Linux' own from before.
const LINUX_VXLAN_PORT: u16 = 8472;

/// Bytes of a TCP header without options.
const TCP_LENGTH: usize = 20;
/// Bytes of a UDP header.
const UDP_LENGTH: usize = 8;
/// Bytes of SCTP's common header.
const SCTP_LENGTH: usize = 12;
/// Bytes of a VXLAN header.
const VXLAN_LENGTH: usize = 8;
/// Bytes of the hop-by-hop header with the jumbo option.
const JUMBO_LENGTH: u8 = 8;

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
    let Segmentation {
        gso_segs,
        gso_size,
        tag_in_metadata,
    } = segmentation;
    let tag = if tag_in_metadata { TAG_LENGTH } else { 0 };
    if gso_size == 0 {
        return Wire {
            packets: 1,
            bytes: u64::from(len) + tag,
        };
    }
    let SegmentHeaders { length, jumbo } = headers.unwrap_or(SegmentHeaders { length: 0, jumbo: 0 });
    let (length, jumbo) = (u32::from(length), u32::from(jumbo));
    let packets = match (gso_segs, gso_size) {
        (0, GSO_BY_FRAGS) => 1,
        (0, _) => len.saturating_sub(length + jumbo).div_ceil(gso_size).max(1),
        _ => gso_segs,
    };
    // 2^32 · (1 + 2^16 + 4) fits.
    let bytes = u64::from(len.saturating_sub(jumbo))
        + u64::from(packets - 1) * u64::from(length)
        + u64::from(packets) * tag;
    Wire { packets, bytes }
}

/// The header a walk comes to next.
#[derive(Clone, Copy)]
enum Next {
    Ethertype(u16),
    Protocol(u8),
}

/// The headers that every segment of a GSO or GRO buffer gets: everything before the payload of the innermost
/// TCP, UDP or SCTP. The buffer begins with its Ethernet header.
#[inline(always)]
pub fn segment_header_length<P: Packet + ?Sized>(packet: &P) -> Option<SegmentHeaders> {
    // Nearly every such buffer is one of these: read in place it costs 10 ns, the walk past a single tag 76 (6.18,
    // BPF_PROG_TEST_RUN, over the same packet without GSO).
    // No closures here: one that is not inlined is a function of its own, which the verifier walks for each packet it can
    // think of, and then again.
    match plain_tcp_frame(packet) {
        None => walk(&Far(packet), Next::Ethertype(ETHERTYPE_BRIDGING)),
        headers => headers,
    }
}

/// As [`segment_header_length`], of a buffer that begins with its IP header: nothing below that is among the headers.
#[inline(always)]
pub fn segment_header_length_from_ip<P: Packet + ?Sized>(packet: &P) -> Option<SegmentHeaders> {
    let network = network_from_version(packet, 0)?;
    let ethertype = match network.family {
        Family::Ipv4 => ETHERTYPE_IPV4,
        Family::Ipv6 => ETHERTYPE_IPV6,
    };
    match plain_tcp(packet, &network) {
        None => walk(&Far(packet), Next::Ethertype(ethertype)),
        headers => headers,
    }
}

/// TCP over an IP header without options or extensions over an Ethernet header without tags.
#[inline(always)]
fn plain_tcp_frame<P: Packet + ?Sized>(packet: &P) -> Option<SegmentHeaders> {
    let link = untagged(packet, 0)?;
    plain_tcp(packet, &network(packet, link.ethertype, link.offset)?)
}

/// TCP over an IP header without options or extensions.
#[inline(always)]
fn plain_tcp<P: Packet + ?Sized>(packet: &P, network: &Network) -> Option<SegmentHeaders> {
    let end = match network.family {
        Family::Ipv4 if network.header_length == IPV4_LENGTH => network.offset + IPV4_LENGTH,
        Family::Ipv4 => return None,
        Family::Ipv6 => network.offset + IPV6_LENGTH,
    };
    if network.next_header != TCP || network.fragment != Fragment::No {
        return None;
    }
    Some(headers(tcp_end(packet, end)?, 0))
}

/// Whatever there is before the payload, from the header that is `next` on.
///
/// One loop over all kinds of headers and not the steps of [`super::ethernet`], [`network()`] and
/// [`super::Network::transport`] twice over: the verifier's work grows with the sum of the kinds instead of the
/// product of the layers.
#[inline(always)]
fn walk<P: Packet + ?Sized>(packet: &Far<'_, P>, mut next: Next) -> Option<SegmentHeaders> {
    let mut offset = 0;
    let mut jumbo = 0;
    for _ in 0..MAX_HEADERS {
        (next, offset) = match next {
            Next::Ethertype(ETHERTYPE_BRIDGING) => {
                let link = untagged(packet, offset)?;
                (Next::Ethertype(link.ethertype), link.offset)
            }
            Next::Ethertype(ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN | ETHERTYPE_OLD_SERVICE_VLAN) => {
                let (ethertype, offset) = below_tag(packet, offset)?;
                (Next::Ethertype(ethertype), offset)
            }
            Next::Ethertype(ETHERTYPE_IPV4) | Next::Protocol(IPIP) => {
                let network = network(packet, ETHERTYPE_IPV4, offset)?;
                // No fragment is ever segmented.
                if network.fragment != Fragment::No {
                    return None;
                }
                (
                    Next::Protocol(network.next_header),
                    offset + network.header_length,
                )
            }
            Next::Ethertype(ETHERTYPE_IPV6) | Next::Protocol(IPV6) => {
                let network = network(packet, ETHERTYPE_IPV6, offset)?;
                let end = offset + network.header_length;
                if network.jumbogram && network.next_header == HOP_BY_HOP && has_kernel_jumbo(packet, end)? {
                    jumbo = JUMBO_LENGTH;
                }
                (Next::Protocol(network.next_header), end)
            }
            Next::Protocol(protocol) if is_extension(protocol) => {
                let extension = extension(packet, protocol, offset)?;
                if !matches!(extension.fragment, None | Some(Fragment::No)) {
                    return None;
                }
                (Next::Protocol(extension.next_header), extension.end)
            }
            Next::Protocol(GRE) => below_gre(packet, offset)?,
            Next::Protocol(UDP) => {
                let end = offset + UDP_LENGTH;
                if !carries_vxlan(packet, offset)? {
                    return Some(headers(end, jumbo));
                }
                (Next::Ethertype(ETHERTYPE_BRIDGING), end + VXLAN_LENGTH)
            }
            Next::Protocol(TCP) => return Some(headers(tcp_end(packet, offset)?, jumbo)),
            Next::Protocol(SCTP) => {
                packet.read::<SCTP_LENGTH>(offset)?;
                return Some(headers(offset + SCTP_LENGTH, jumbo));
            }
            _ => return None,
        };
    }
    None
}

/// [`MAX_HEADERS`] extensions of 2 KiB fit the 16 bits.
#[inline(always)]
const fn headers(end: usize, jumbo: u8) -> SegmentHeaders {
    SegmentHeaders {
        length: end as u16 - jumbo as u16,
        jumbo,
    }
}

/// Whether `offset` has the one form of the jumbo option that the kernel puts in front of TCP and takes off again
/// (`ipv6_has_hopopt_jumbo` in <https://github.com/torvalds/linux/blob/v6.12/include/net/ipv6.h>).
#[inline(always)]
fn has_kernel_jumbo<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<bool> {
    let [next_header, units, option, length, ..] = packet.read::<{ JUMBO_LENGTH as usize }>(offset)?;
    Some(next_header == TCP && units == 0 && option == 0xc2 && length == 4)
}

/// Where a TCP header and its options end.
#[inline(always)]
fn tcp_end<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<usize> {
    let header: [u8; TCP_LENGTH] = packet.read(offset)?;
    let length = (header[12] >> 4) as usize * 4;
    if length < TCP_LENGTH {
        return None;
    }
    packet.read::<2>(offset + length - 2)?;
    Some(offset + length)
}

/// What GRE carries, and where (RFC 2784, RFC 2890).
#[inline(always)]
fn below_gre<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<(Next, usize)> {
    let [flags, version, high, low] = packet.read(offset)?;
    // Routing is RFC 1701's, and version 1 is PPTP's: the kernel segments neither.
    if flags & 0x40 != 0 || version & 7 != 0 {
        return None;
    }
    let optional = (flags >> 7) + (flags >> 5 & 1) + (flags >> 4 & 1);
    Some((
        Next::Ethertype(be16(high, low)),
        offset + 4 + optional as usize * 4,
    ))
}

/// Whether the datagram at `offset` is VXLAN's: its port, and a header that names a network (RFC 7348 §5).
#[inline(always)]
fn carries_vxlan<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<bool> {
    let header: [u8; UDP_LENGTH] = packet.read(offset)?;
    if !matches!(be16(header[2], header[3]), VXLAN_PORT | LINUX_VXLAN_PORT) {
        return Some(false);
    }
    let header: [u8; VXLAN_LENGTH] = packet.read(offset + UDP_LENGTH)?;
    Some(header[0] & 0x08 != 0)
}
