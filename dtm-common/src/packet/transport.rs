//! From the IP header to the transport header: options, extension headers, fragments.

use super::{Family, Network, Packet, be16, within};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that the parser tells apart.
pub mod protocols {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
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
    /// IPsec authentication header.
    pub const AUTHENTICATION: u8 = 51;
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

use protocols::{AUTHENTICATION, DESTINATION, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, ROUTING, SHIM6, TCP};

/// Extension headers that are looked through. RFC 8200 §4.1 has seven in its order; hosts send one or two.
const MAX_EXTENSIONS: usize = 8;

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
    /// Bytes of the jumbo option the kernel keeps in a buffer beyond 64 KiB and no segment carries: 8 or 0.
    pub(super) jumbo: u8,
}

impl Network {
    /// What follows this header, its options and its extensions.
    #[inline(always)]
    pub fn transport<P: Packet + ?Sized>(&self, packet: &P) -> Option<Transport> {
        let transport = Transport {
            protocol: self.next_header,
            offset: self.offset + self.header_length,
            fragment: self.fragment,
            jumbo: 0,
        };
        match self.family {
            Family::Ipv4 => within(packet, transport.offset).map(|_| transport),
            Family::Ipv6 => transport.after_extensions(packet, self.jumbogram),
        }
    }
}

impl Transport {
    #[inline(always)]
    fn after_extensions<P: Packet + ?Sized>(mut self, packet: &P, jumbogram: bool) -> Option<Self> {
        for _ in 0..MAX_EXTENSIONS {
            if !is_extension(self.protocol) || self.fragment == Fragment::Later {
                return within(packet, self.offset).map(|_| self);
            }
            // The shortest extension is 8 bytes long.
            let header: [u8; 8] = packet.read(self.offset)?;
            let length = match self.protocol {
                FRAGMENT => {
                    let field = be16(header[2], header[3]);
                    self.fragment = Fragment::new(field >> 3, field & 1 != 0);
                    8
                }
                AUTHENTICATION => (header[1] as usize + 2) * 4,
                HOP_BY_HOP if jumbogram && is_kernel_jumbo(header) => {
                    self.jumbo = 8;
                    8
                }
                _ => (header[1] as usize + 1) * 8,
            };
            self.protocol = header[0];
            self.offset += length;
        }
        // A longer chain is nobody's traffic; where it leads is not worth the reads.
        (!is_extension(self.protocol)).then_some(())?;
        within(packet, self.offset).map(|_| self)
    }
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

/// The one form of the jumbo option the kernel puts in front of TCP and takes off again
/// (`ipv6_has_hopopt_jumbo` in <https://github.com/torvalds/linux/blob/v6.12/include/net/ipv6.h>).
#[inline(always)]
const fn is_kernel_jumbo([next_header, length, option, option_length, ..]: [u8; 8]) -> bool {
    next_header == TCP && length == 0 && option == 0xc2 && option_length == 4
}
