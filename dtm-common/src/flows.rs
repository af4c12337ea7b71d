//! Who sends to whom: the matrix of containers and of what else there is.

/// Room beside the pairs: for [`FlowKey::REST`].
pub const FLOWS_SPARE: u32 = 1;

/// A sender and a receiver: numbers of the daemon's for lives of interfaces, or one of `views::PEER_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Who sent.
    pub source: u32,
    /// To whom.
    pub destination: u32,
}

impl FlowKey {
    /// What is counted for pairs that found no room. The daemon enters it, so that there is always room for it.
    pub const REST: Self = Self {
        source: crate::views::PEER_OTHER,
        destination: crate::views::PEER_OTHER,
    };
}

const _: () = assert!(size_of::<FlowKey>() == 8);

#[cfg(not(target_arch = "bpf"))]
mod pod {
    #![expect(unsafe_code, reason = "Pod is an unsafe marker trait")]

    // SAFETY: `repr(C)`, only `u32` fields, no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: `repr(C)`, only `u64` fields, no padding, every bit pattern valid.
    unsafe impl aya::Pod for crate::views::Volume {}
}
