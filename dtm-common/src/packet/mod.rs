//! The packet parser: the same code the kernel side runs, tested on the host.
//!
//! Three steps, each paid for only when taken: [`ethernet`] finds the network layer, [`network`] reads its
//! addresses, [`Network::transport`] walks to the transport header. On top of them [`segment_header_length`] and
//! [`wire`] turn a GSO or GRO buffer into what a wire carries.
//!
//! Every step reads a constant number of times at most and answers `None` for what is truncated or garbage. An
//! offset it returns lies within the packet, and a packet cut short gives the same answer or none.
#![expect(
    clippy::inline_always,
    reason = "the kernel side has no calls to spare per packet"
)]

mod link;
mod network;
mod segments;
mod transport;

#[cfg(test)]
mod tests;

pub use link::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Link, ethernet};
pub use network::{Family, Network, addresses, network, network_from_version};
pub use segments::{SegmentHeaders, Segmentation, Wire, segment_header_length, wire};
pub use transport::{Fragment, Transport, protocols};

/// Bytes of a packet that may not all be there.
pub trait Packet {
    /// The `N` bytes at `offset`, or nothing where the packet ends before them.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Packet for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// The big-endian number in two bytes of a header.
#[inline(always)]
const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// `end`, if the packet reaches that far.
#[inline(always)]
fn within<P: Packet + ?Sized>(packet: &P, end: usize) -> Option<usize> {
    packet.read::<1>(end.checked_sub(1)?)?;
    Some(end)
}
