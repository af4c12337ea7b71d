//! The packet parser: the same code the kernel side runs, tested on the host.

/// Bytes of a packet that may not all be there.
pub trait Packet {
    /// The `N` bytes at `offset`, or nothing where the packet ends before them.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}
