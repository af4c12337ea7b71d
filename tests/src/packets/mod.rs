//! Frames built header by header, which know by their own arithmetic where each header is.
//!
//! Lengths and protocol numbers are right; checksums are zero, nothing that reads these frames looks at them.

use std::net::{Ipv4Addr, Ipv6Addr};

#[cfg(test)]
mod tests;

/// The sender of every frame, in a prefix for documentation (RFC 5737).
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Its receiver.
pub const DESTINATION_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The sender of every IPv6 frame, in a prefix for documentation (RFC 3849).
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Its receiver.
pub const DESTINATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Protocol numbers of IPv6 extension headers of the common form: next header, length in eight bytes less one.
pub const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_BRIDGING: u16 = 0x6558;
/// IEEE's for local experiments: nobody parses what follows.
const ETHERTYPE_EXPERIMENTAL: u16 = 0x88b5;

const PROTOCOL_NONE: u8 = 59;

/// A header or the payload.
#[derive(Clone, Debug)]
struct Layer {
    kind: Kind,
    /// The bytes without what depends on the layers below.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ethernet,
    Tag(u16),
    Ipv4,
    Ipv6,
    /// An IPv6 extension header of this protocol number.
    Extension(u8),
    /// What follows has nothing that depends on it, and is protocol number so and so.
    Transport(u8),
    Udp,
    Gre,
    Vxlan,
    /// Data, or a protocol of its own `EtherType`.
    Payload,
}

/// Builds a frame from the outermost header inwards.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    layers: Vec<Layer>,
}

impl PacketBuilder {
    /// Starts with an Ethernet header.
    pub fn ethernet() -> Self {
        Self { layers: Vec::new() }.inner_ethernet()
    }

    /// An Ethernet header inside GRE or VXLAN.
    #[must_use]
    pub fn inner_ethernet(self) -> Self {
        self.layer(
            Kind::Ethernet,
            vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5],
        )
    }

    /// An 802.1Q tag.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(0x8100, id)
    }

    /// A tag of any type.
    #[must_use]
    pub fn tag(self, ethertype: u16, id: u16) -> Self {
        let [high, low] = id.to_be_bytes();
        self.layer(Kind::Tag(ethertype), vec![high, low, 0x88, 0xb5])
    }

    /// An IPv4 header without options, from [`SOURCE_V4`] to [`DESTINATION_V4`].
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.ipv4_between(SOURCE_V4, DESTINATION_V4)
    }

    /// An IPv4 header without options.
    #[must_use]
    pub fn ipv4_between(self, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let mut header = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, PROTOCOL_NONE, 0, 0];
        header.extend(source.octets());
        header.extend(destination.octets());
        self.layer(Kind::Ipv4, header)
    }

    /// An IPv6 header, from [`SOURCE_V6`] to [`DESTINATION_V6`].
    #[must_use]
    pub fn ipv6(self) -> Self {
        self.ipv6_between(SOURCE_V6, DESTINATION_V6)
    }

    /// An IPv6 header.
    #[must_use]
    pub fn ipv6_between(self, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, PROTOCOL_NONE, 64];
        header.extend(source.octets());
        header.extend(destination.octets());
        self.layer(Kind::Ipv6, header)
    }

    /// `words` of four bytes of options (no-ops) in the IPv4 or TCP header before.
    ///
    /// # Panics
    ///
    /// After any other header.
    #[must_use]
    pub fn options(mut self, words: u8) -> Self {
        let Some(layer) = self.layers.last_mut() else {
            return self;
        };
        match layer.kind {
            Kind::Ipv4 => layer.bytes[0] += words,
            Kind::Transport(6) => layer.bytes[12] += words << 4,
            kind => panic!("{kind:?} has no options"),
        }
        layer.bytes.extend([1_u8; 4].repeat(words.into()));
        self
    }

    /// Makes the IPv4 packet before a fragment, or adds IPv6's fragment header; `offset` in eight bytes.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        if let Some(Layer {
            kind: Kind::Ipv4,
            bytes,
        }) = self.layers.last_mut()
        {
            let field = offset | if more { 0x2000 } else { 0 };
            bytes[6..8].copy_from_slice(&field.to_be_bytes());
            return self;
        }
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        self.layer(Kind::Extension(44), vec![PROTOCOL_NONE, 0, high, low, 0, 0, 0, 1])
    }

    /// An IPv6 extension header out of [`EXTENSIONS`], `units` times eight bytes longer than the shortest.
    #[must_use]
    pub fn extension(self, protocol: u8, units: u8) -> Self {
        let mut header = vec![0; (usize::from(units) + 1) * 8];
        header[..2].copy_from_slice(&[PROTOCOL_NONE, units]);
        self.layer(Kind::Extension(protocol), header)
    }

    /// An authentication header with `words` of four bytes of check value, which IPv6 wants odd.
    #[must_use]
    pub fn authentication(self, words: u8) -> Self {
        let mut header = vec![0; (usize::from(words) + 3) * 4];
        header[..2].copy_from_slice(&[PROTOCOL_NONE, words + 1]);
        self.layer(Kind::Extension(51), header)
    }

    /// The kernel's jumbo option in a hop-by-hop header, which makes the IPv6 payload length 0.
    #[must_use]
    pub fn jumbo(self) -> Self {
        self.layer(Kind::Extension(0), vec![PROTOCOL_NONE, 0, 0xc2, 4, 0, 1, 0, 0])
    }

    /// A TCP header without options.
    #[must_use]
    pub fn tcp(self) -> Self {
        let mut header = vec![0; 20];
        header[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        header[12..14].copy_from_slice(&[0x50, 0x10]);
        self.layer(Kind::Transport(6), header)
    }

    /// A UDP header to `port`.
    #[must_use]
    pub fn udp(self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.layer(Kind::Udp, vec![0x9c, 0x40, high, low, 0, 0, 0, 0])
    }

    /// SCTP's common header.
    #[must_use]
    pub fn sctp(self) -> Self {
        self.layer(Kind::Transport(132), vec![0; 12])
    }

    /// An ICMP echo request.
    #[must_use]
    pub fn icmp(self) -> Self {
        self.layer(Kind::Transport(1), vec![8, 0, 0, 0, 0, 1, 0, 1])
    }

    /// A GRE header with the optional fields asked for.
    #[must_use]
    pub fn gre(self, checksum: bool, key: bool, sequence: bool) -> Self {
        let flags = u8::from(checksum) << 7 | u8::from(key) << 5 | u8::from(sequence) << 4;
        let optional = usize::from(checksum) + usize::from(key) + usize::from(sequence);
        let mut header = vec![flags, 0, 0x88, 0xb5];
        header.extend([0_u8; 4].repeat(optional));
        self.layer(Kind::Gre, header)
    }

    /// A VXLAN header, below [`udp`](Self::udp).
    #[must_use]
    pub fn vxlan(self, network: u32) -> Self {
        let [_, high, middle, low] = network.to_be_bytes();
        self.layer(Kind::Vxlan, vec![8, 0, 0, 0, high, middle, low, 0])
    }

    /// `length` bytes of data that look like no header.
    #[must_use]
    pub fn payload(self, length: usize) -> Self {
        self.layer(Kind::Payload, vec![0xaa; length])
    }

    /// An ARP request's worth of bytes under ARP's `EtherType`.
    #[must_use]
    pub fn arp(mut self) -> Self {
        self.set_ethertype(0x0806);
        self.layer(Kind::Payload, vec![0; 28])
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let mut bytes = layer.bytes.clone();
            let below = self.layers.get(index + 1).map(|layer| layer.kind);
            match layer.kind {
                Kind::Ethernet => set_ethertype(&mut bytes[12..], below),
                Kind::Tag(_) | Kind::Gre => set_ethertype(&mut bytes[2..4], below),
                Kind::Ipv4 => {
                    set_length(&mut bytes[2..], layer.bytes.len() + frame.len());
                    set_protocol(&mut bytes[9], below);
                }
                Kind::Ipv6 => {
                    let is_jumbo = self.is_jumbo(index + 1);
                    set_length(&mut bytes[4..], if is_jumbo { 0 } else { frame.len() });
                    set_protocol(&mut bytes[6], below);
                }
                Kind::Extension(_) => set_protocol(&mut bytes[0], below),
                Kind::Udp => set_length(&mut bytes[4..], 8 + frame.len()),
                Kind::Transport(_) | Kind::Vxlan | Kind::Payload => {}
            }
            frame.splice(0..0, bytes);
        }
        frame
    }

    /// Bytes before the payload.
    pub fn header_length(&self) -> usize {
        let headers = self.layers.iter().filter(|layer| layer.kind != Kind::Payload);
        headers.map(|layer| layer.bytes.len()).sum()
    }

    /// Bytes before the outermost transport header, or before whatever else ends the outermost chain of IP headers.
    pub fn transport_offset(&self) -> usize {
        let is_before = |kind| {
            matches!(
                kind,
                Kind::Ethernet | Kind::Tag(_) | Kind::Ipv4 | Kind::Ipv6 | Kind::Extension(_)
            )
        };
        let headers = self.layers.iter().take_while(|layer| is_before(layer.kind));
        headers.map(|layer| layer.bytes.len()).sum()
    }

    fn layer(mut self, kind: Kind, bytes: Vec<u8>) -> Self {
        self.layers.push(Layer { kind, bytes });
        self
    }

    /// Whether the layer at `index` is a hop-by-hop header with the jumbo option.
    fn is_jumbo(&self, index: usize) -> bool {
        self.layers
            .get(index)
            .is_some_and(|layer| layer.kind == Kind::Extension(0) && layer.bytes[2] == 0xc2)
    }

    /// For a payload that has an `EtherType` of its own.
    fn set_ethertype(&mut self, ethertype: u16) {
        if let Some(layer) = self.layers.last_mut() {
            let end = layer.bytes.len();
            layer.bytes[end - 2..].copy_from_slice(&ethertype.to_be_bytes());
        }
    }
}

fn set_length(field: &mut [u8], length: usize) {
    // Longer ones are no frames.
    field[..2].copy_from_slice(&(length as u16).to_be_bytes());
}

fn set_ethertype(field: &mut [u8], below: Option<Kind>) {
    let ethertype = match below {
        Some(Kind::Ethernet) => ETHERTYPE_BRIDGING,
        Some(Kind::Tag(ethertype)) => ethertype,
        Some(Kind::Ipv4) => ETHERTYPE_IPV4,
        Some(Kind::Ipv6) => ETHERTYPE_IPV6,
        None | Some(Kind::Payload) => return,
        Some(_) => ETHERTYPE_EXPERIMENTAL,
    };
    field[..2].copy_from_slice(&ethertype.to_be_bytes());
}

fn set_protocol(field: &mut u8, below: Option<Kind>) {
    *field = match below {
        Some(Kind::Ipv4) => 4,
        Some(Kind::Udp) => 17,
        Some(Kind::Ipv6) => 41,
        Some(Kind::Gre) => 47,
        Some(Kind::Extension(protocol) | Kind::Transport(protocol)) => protocol,
        _ => PROTOCOL_NONE,
    };
}
