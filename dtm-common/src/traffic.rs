//! Traffic counters: one slot per attached interface, one bank of slots per CPU.

/// What went one way: three counters that only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes at the hook, layer 2 header included (`skb->len` as TC sees it).
    pub bytes: u64,
    /// Packets as they are on a wire: a GSO or GRO buffer counts as its segments.
    pub packets: u64,
    /// Bytes as a network card would count them: the headers of every segment, tags in metadata included.
    pub wire_bytes: u64,
}

/// The counters of one slot on one CPU. 64 bytes, so that a slot is one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// What the container was offered: the host end's egress.
    pub receive: Tally,
    /// What the container sent: the host end's ingress.
    pub transmit: Tally,
    /// Fills the cache line; always zero.
    pub reserved: [u64; 2],
}

const _: () = assert!(size_of::<SlotCounters>() == 64, "a slot is one cache line");

/// The direction of traffic as the container sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the container.
    Receive,
    /// From the container.
    Transmit,
}

#[cfg(not(target_arch = "bpf"))]
mod pod {
    #![expect(unsafe_code, reason = "Pod is an unsafe marker trait")]

    // SAFETY: `repr(C)`, only `u64` fields, no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::SlotCounters {}
}
