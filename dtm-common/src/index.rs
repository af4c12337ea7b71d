//! From an interface to its slot.
//!
//! Interface indices only grow over a host's life and repeat between network namespaces, so nothing is sized by
//! them. A program looks at one bucket of a fixed array and compares the key; the rare second interface of a
//! bucket is in a hash map beside it.

/// Buckets of the direct array. 65,536 × 12 bytes: two of the first few thousand interfaces of a host never
/// share one, because indices are handed out in order.
pub const INDEX_BUCKETS: u32 = 1 << 16;

/// Entries of the hash map for the interfaces whose bucket was taken.
pub const INDEX_OVERFLOW_ENTRIES: u32 = 4096;

/// In the place of a slot that is fixed when a program is loaded: it is looked up by interface instead.
pub const SLOT_BY_INTERFACE: u32 = u32::MAX;

/// One interface of one network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceKey {
    /// The daemon's number for the namespace: 0 is the one it runs in.
    pub netns: u32,
    /// The kernel's index, unique within the namespace; never 0.
    pub ifindex: u32,
}

impl InterfaceKey {
    /// The bucket this interface is looked up in.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "the kernel side has no calls to spare per packet"
    )]
    pub const fn bucket(self) -> u32 {
        // An odd multiplier spreads the namespaces; within one, neighbours stay neighbours.
        (self.ifindex ^ self.netns.wrapping_mul(0x9E37_79B1)) & (INDEX_BUCKETS - 1)
    }
}

/// What a bucket holds: which interface it belongs to, and that interface's slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// The interface; an `ifindex` of 0 is an empty bucket.
    pub key: InterfaceKey,
    /// Its slot in the counters.
    pub slot: u32,
}

const _: () = assert!(size_of::<InterfaceKey>() == 8);
const _: () = assert!(size_of::<IndexEntry>() == 12);

#[cfg(not(target_arch = "bpf"))]
mod pod {
    #![expect(unsafe_code, reason = "Pod is an unsafe marker trait")]

    // SAFETY: `repr(C)`, only `u32` fields, no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::InterfaceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::IndexEntry {}
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn neighbours_of_one_namespace_never_share_a_bucket() {
        let bucket = |ifindex| InterfaceKey { netns: 7, ifindex }.bucket();
        let mut buckets: Vec<_> = (200_000..200_000 + INDEX_BUCKETS).map(bucket).collect();
        buckets.sort_unstable();
        buckets.dedup();
        assert_eq!(buckets.len(), INDEX_BUCKETS as usize);
    }

    #[test]
    fn the_same_index_of_two_namespaces_uses_two_buckets() {
        let first = InterfaceKey { netns: 0, ifindex: 5 };
        let second = InterfaceKey { netns: 1, ifindex: 5 };
        assert_ne!(first.bucket(), second.bucket());
    }
}
