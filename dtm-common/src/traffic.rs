//! Traffic counters: one slot per attached interface, one bank of slots per CPU.

/// What went one way: three counters that only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes at the hook (`skb->len`): at TC with the layer 2 header, at a cgroup from the IP header on.
    pub bytes: u64,
    /// Packets as they are on a wire: a GSO or GRO buffer counts as its segments.
    pub packets: u64,
    /// The same with the headers of every segment. At TC, tags in metadata included, as a network card would count
    /// them.
    pub wire_bytes: u64,
}

/// Words that fill a slot up to whole cache lines. The other layout, which only tests are built with, has a line more.
const RESERVED: usize = if cfg!(feature = "other-layout") { 10 } else { 2 };

/// The counters of one slot on one CPU. 64 bytes, so that a slot is one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// What the container was offered: the host end's egress, its own device's or its cgroup's ingress.
    pub receive: Tally,
    /// What the container sent: the host end's ingress, its own device's or its cgroup's egress.
    pub transmit: Tally,
    /// Fills the cache line; always zero.
    pub reserved: [u64; RESERVED],
}

const _: () = assert!(
    size_of::<SlotCounters>().is_multiple_of(64),
    "a slot is whole cache lines"
);

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
