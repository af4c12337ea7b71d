//! The packet parser: the same code the kernel side runs, tested on the host.
//!
//! Three steps, each paid for only when taken: [`ethernet`] finds the network layer, [`network()`] reads its
//! addresses, [`Network::transport`] walks to the transport header. On top of them [`segment_header_length`], or
//! [`segment_header_length_from_ip`] where there is no Ethernet header, and [`wire`] turn a GSO or GRO buffer into what
//! a wire carries.
//!
//! Every step reads a constant number of times at most and answers `None` for what is truncated or garbage. An
//! offset it returns lies within the packet, and a packet cut short gives the same answer or none.
#![expect(
    clippy::inline_always,
    reason = "the kernel side has no calls to spare per packet"
)]

mod head;
mod link;
mod network;
mod segments;
mod transport;

#[cfg(test)]
mod tests;

pub use head::{Head, head, head_from_ip};
pub use link::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Link, ethernet};
pub use network::{Family, Network, addresses, network, network_from_version};
pub use segments::{
    SegmentHeaders, Segmentation, Wire, segment_header_length, segment_header_length_from_ip, wire,
};
pub use transport::{Fragment, Transport, protocols};

/// Bytes of a packet that may not all be there.
pub trait Packet {
    /// The `N` bytes at `offset`, or nothing where the packet ends before them.
    ///
    /// For the headers nearly every packet has, at one of a few constant offsets: what the kernel side reads in
    /// place. `N` is at least 2, because LLVM turns the bound of a single byte into `start < end`, which the
    /// kernel's verifier takes no range from.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// As [`read`](Self::read), for headers that are rare or may be anywhere.
    ///
    /// The kernel side calls `bpf_skb_load_bytes`. Reading in place makes the verifier follow every value the offset
    /// may have, for each path on its own: through tags, extensions and tunnels that is more than its million
    /// instructions.
    #[inline(always)]
    fn read_far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.read(offset)
    }

    /// The same value, about which the kernel's verifier knows nothing any more.
    ///
    /// It follows every path through a program, and a value that is a constant on each keeps them apart for as long as
    /// somebody may branch on it: behind a loop that is left in eight ways everything would be looked at eight times.
    #[inline(always)]
    fn hide(&self, value: u32) -> u32 {
        value
    }

    /// The `N` big-endian words at `offset`, as [`read`](Self::read).
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.words_far(offset)
    }

    /// The same, as [`read_far`](Self::read_far).
    #[inline(always)]
    fn words_far<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (number, word) in words.iter_mut().enumerate() {
            *word = u32::from_be_bytes(self.read_far(offset + number * size_of::<u32>())?);
        }
        Some(words)
    }
}

impl Packet for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// A packet all of whose reads are far ones.
struct Far<'a, P: ?Sized>(&'a P);

impl<P: Packet + ?Sized> Packet for Far<'_, P> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.read_far(offset)
    }
}

/// The big-endian number in two bytes of a header.
#[inline(always)]
const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}
