//! What the second view needs of a packet: between whom it is, which protocol, which ports.
//!
//! Read as whole words and in a form that is always complete: the compiler for the kernel's machine makes a chain of single
//! bytes of every number that is put together from them, and of optional parts values that the verifier has not seen set.

use super::{
    Packet, ethernet,
    link::ETHERNET_LENGTH as ETHERNET,
    network::{IPV4_LENGTH as IPV4, IPV6_LENGTH as IPV6},
    transport::{MAX_EXTENSIONS, is_extension, protocols},
};
use crate::views::{Protocol, Words};

/// TCP's SYN, RST and ACK flags, in the fourth word of its header.
const SYN: u32 = 0x02 << 16;
const RST: u32 = 0x04 << 16;
const ACK: u32 = 0x10 << 16;

/// The part of the second word of an IPv4 header that is 0 where a packet is whole or the first of its fragments.
const IPV4_FRAGMENT_OFFSET: u32 = 0x1fff;

/// The same of an IPv6 fragment header's first word.
const IPV6_FRAGMENT_OFFSET: u32 = 0xfff8;

/// The offset of the transport header is not there to be read.
const NOWHERE: usize = 0;

/// Between whom a packet is, and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether it is IP at all; the rest says nothing where it is not.
    pub is_ip: bool,
    /// Who sent it.
    pub source: Words,
    /// For whom it is.
    pub destination: Words,
    /// What is above IP; where the chain of extensions is cut off or too long, [`Protocol::Other`].
    pub protocol: Protocol,
    /// The ports of TCP and UDP; 0 in later fragments, and where they are not there.
    pub source_port: u16,
    /// As `source_port`.
    pub destination_port: u16,
    /// Whether it asks for a TCP connection: SYN without ACK.
    pub is_request: bool,
    /// Whether it ends a TCP connection at once: RST.
    pub is_reset: bool,
}

impl Head {
    const NOT_IP: Self = Self {
        is_ip: false,
        source: Words([0; 2]),
        destination: Words([0; 2]),
        protocol: Protocol::Other,
        source_port: 0,
        destination_port: 0,
        is_request: false,
        is_reset: false,
    };
}

/// What a packet that begins with its Ethernet header says.
#[inline(always)]
pub fn head<P: Packet + ?Sized>(packet: &P) -> Head {
    match ethernet(packet, 0) {
        Some(link) => match link.ethertype {
            super::ETHERTYPE_IPV4 => ipv4(packet, link.offset),
            super::ETHERTYPE_IPV6 => ipv6(packet, link.offset),
            _ => Head::NOT_IP,
        },
        None => Head::NOT_IP,
    }
}

/// The same of one that begins with its IP header.
#[inline(always)]
pub fn head_from_ip<P: Packet + ?Sized>(packet: &P) -> Head {
    match packet.words::<1>(0) {
        Some([word]) if word >> 28 == 4 => ipv4(packet, 0),
        Some([word]) if word >> 28 == 6 => ipv6(packet, 0),
        _ => Head::NOT_IP,
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, offset: usize) -> Head {
    let Some([first, second, third, source, destination]) = untagged(packet, offset) else {
        return Head::NOT_IP;
    };
    let length = (first >> 24 & 0xf) as usize * 4;
    if first >> 28 != 4 || length < IPV4 {
        return Head::NOT_IP;
    }
    let is_later = second & IPV4_FRAGMENT_OFFSET != 0;
    Head {
        is_ip: true,
        source: Words::v4_of(source),
        destination: Words::v4_of(destination),
        ..above(
            packet,
            offset,
            if is_later { NOWHERE } else { offset + length },
            (third >> 16) as u8,
            false,
        )
    }
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, offset: usize) -> Head {
    let Some([first, second, addresses @ ..]) = untagged::<10, P>(packet, offset) else {
        return Head::NOT_IP;
    };
    if first >> 28 != 6 {
        return Head::NOT_IP;
    }
    let (protocol, transport) = beyond(packet, (second >> 8 & 0xff) as u8, offset + IPV6);
    let word = |at: usize| u64::from(addresses[at]) << 32 | u64::from(addresses[at + 1]);
    Head {
        is_ip: true,
        source: Words([word(0), word(2)]),
        destination: Words([word(4), word(6)]),
        ..above(packet, offset, transport, protocol, true)
    }
}

/// What comes after the extensions of an IPv6 header, the first of which is this protocol, and where.
#[inline(always)]
fn beyond<P: Packet + ?Sized>(packet: &P, protocol: u8, offset: usize) -> (u8, usize) {
    let (mut protocol, mut offset, mut is_later) = (u32::from(protocol), offset as u32, 0);
    for _ in 0..MAX_EXTENSIONS {
        if is_later != 0 || !is_extension(protocol as u8) {
            break;
        }
        let Some([word]) = packet.words_far(offset as usize) else {
            return (protocols::NONE, NOWHERE);
        };
        let units = word >> 16 & 0xff;
        let length = match protocol as u8 {
            protocols::FRAGMENT => 8,
            protocols::AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        let is_fragment = protocol as u8 == protocols::FRAGMENT && word & IPV6_FRAGMENT_OFFSET != 0;
        protocol = packet.hide(word >> 24);
        offset = packet.hide(offset + length);
        is_later = packet.hide(is_fragment.into());
    }
    if is_later != 0 {
        return (protocol as u8, NOWHERE);
    }
    // A longer chain is nobody's traffic.
    if is_extension(protocol as u8) {
        return (protocols::NONE, NOWHERE);
    }
    (protocol as u8, offset as usize)
}

/// What is above an IP header at `ip`, and begins at `offset`.
#[inline(always)]
fn above<P: Packet + ?Sized>(packet: &P, ip: usize, offset: usize, number: u8, is_ipv6: bool) -> Head {
    let protocol = Protocol::of(number, is_ipv6);
    let (mut ports, mut flags) = (0, 0);
    if offset != NOWHERE {
        match protocol {
            Protocol::Tcp => {
                if let Some([first, _, _, fourth]) = near(packet, ip, offset) {
                    (ports, flags) = (first, fourth);
                }
            }
            Protocol::Udp => {
                if let Some([first]) = near(packet, ip, offset) {
                    ports = first;
                }
            }
            Protocol::Icmp | Protocol::Other => {}
        }
    }
    Head {
        protocol,
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
        is_request: flags & (SYN | ACK) == SYN,
        is_reset: flags & RST != 0,
        ..Head::NOT_IP
    }
}

/// Reads in place the IP header of a packet without tags.
#[inline(always)]
fn untagged<const N: usize, P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<[u32; N]> {
    match offset {
        ETHERNET => packet.words(ETHERNET),
        0 => packet.words(0),
        // The verifier would follow each number of tags on its own.
        _ => packet.words_far(offset),
    }
}

/// Reads in place what comes right after an IP header without options.
#[inline(always)]
fn near<const N: usize, P: Packet + ?Sized>(packet: &P, ip: usize, offset: usize) -> Option<[u32; N]> {
    // Constants that the kernel's verifier knows: where nearly every packet has its ports.
    const AFTER_IPV4: usize = ETHERNET + IPV4;
    const AFTER_IPV6: usize = ETHERNET + IPV6;
    match (ip, offset) {
        (ETHERNET, AFTER_IPV4) => packet.words(AFTER_IPV4),
        (ETHERNET, AFTER_IPV6) => packet.words(AFTER_IPV6),
        (0, IPV4) => packet.words(IPV4),
        (0, IPV6) => packet.words(IPV6),
        _ => packet.words_far(offset),
    }
}
