//! IPv4 and IPv6 headers: who sent a packet, to whom.

use crate::drops::Address;

use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Packet, be16};

/// Bytes of an IPv4 header without options.
pub(super) const IPV4_LENGTH: usize = 20;
/// Bytes of the fixed IPv6 header.
pub(super) const IPV6_LENGTH: usize = 40;

/// Which Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Version 4.
    Ipv4,
    /// Version 6.
    Ipv6,
}

/// What the fixed part of an IP header says. Its addresses hold even where everything after it is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Which IP.
    pub family: Family,
    /// Where the header starts.
    pub offset: usize,
    /// Who sent it.
    pub source: Address,
    /// For whom it is.
    pub destination: Address,
    /// IPv4's protocol. IPv6's next header, which may be an extension; [`Network::transport`] sees through them.
    pub(super) next_header: u8,
    /// Bytes of the header, IPv4 options included, IPv6 extensions not.
    pub(super) header_length: usize,
    /// What the IPv4 header says; IPv6 says it in an extension.
    pub(super) fragment: Fragment,
    /// IPv6 with a payload length of 0, as buffers beyond 64 KiB have it.
    pub(super) jumbogram: bool,
}

/// The IP header at `offset`, if `ethertype` says there is one.
#[inline(always)]
pub fn network<P: Packet + ?Sized>(packet: &P, ethertype: u16, offset: usize) -> Option<Network> {
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(&packet.read(offset)?, offset),
        ETHERTYPE_IPV6 => ipv6(&packet.read(offset)?, offset),
        _ => None,
    }
}

/// The IP header at `offset`, for who starts at the network layer and knows no `EtherType`.
#[inline(always)]
pub fn network_from_version<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Network> {
    // No IPv6 header is shorter either, so for IPv4 this is the only read.
    let header: [u8; IPV4_LENGTH] = packet.read(offset)?;
    match header[0] >> 4 {
        4 => ipv4(&header, offset),
        6 => ipv6(&packet.read(offset)?, offset),
        _ => None,
    }
}

/// Source and destination of a packet that starts with its IP header.
#[inline(always)]
pub fn addresses<P: Packet + ?Sized>(packet: &P) -> Option<(Address, Address)> {
    let network = network_from_version(packet, 0)?;
    Some((network.source, network.destination))
}

#[inline(always)]
fn ipv4(header: &[u8; IPV4_LENGTH], offset: usize) -> Option<Network> {
    let words = header[0] & 0xf;
    if header[0] >> 4 != 4 || words < 5 {
        return None;
    }
    let (_, addresses) = header.split_first_chunk::<12>()?;
    let (source, destination) = addresses.split_first_chunk::<4>()?;
    let fragment_field = be16(header[6], header[7]);
    Some(Network {
        family: Family::Ipv4,
        offset,
        source: Address::v4(*source),
        destination: Address::v4(*destination.first_chunk()?),
        next_header: header[9],
        header_length: words as usize * 4,
        fragment: Fragment::new(fragment_field & 0x1fff, fragment_field & 0x2000 != 0),
        jumbogram: false,
    })
}

#[inline(always)]
fn ipv6(header: &[u8; IPV6_LENGTH], offset: usize) -> Option<Network> {
    if header[0] >> 4 != 6 {
        return None;
    }
    let (_, addresses) = header.split_first_chunk::<8>()?;
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    Some(Network {
        family: Family::Ipv6,
        offset,
        source: Address(*source),
        destination: Address(*destination.first_chunk()?),
        next_header: header[6],
        header_length: IPV6_LENGTH,
        fragment: Fragment::No,
        jumbogram: be16(header[4], header[5]) == 0,
    })
}
