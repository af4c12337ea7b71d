//! What went wrong on the kernel side, counted per CPU and by kind.

/// A packet came through an interface that has no slot. It is counted nowhere else.
pub const ERROR_NO_SLOT: u32 = 0;
/// A GSO or GRO buffer whose headers could not be parsed: its packets are exact, its wire bytes lack the
/// repeated headers.
pub const ERROR_UNPARSED_SEGMENTS: u32 = 1;
/// A drop that found the drop map full.
pub const ERROR_DROPS_FULL: u32 = 2;
/// A packet of a pair that found the map of flows full: it is counted under [`FlowKey::REST`](crate::flows::FlowKey::REST).
pub const ERROR_FLOWS_FULL: u32 = 3;
/// A connection that was begun while the starts of as many as can be remembered were: how long it takes is not known.
pub const ERROR_HANDSHAKES_FULL: u32 = 4;
/// How many kinds there are.
pub const ERROR_KINDS: u32 = 5;

/// The `reason` label of each kind, by its number.
pub const ERROR_NAMES: [&str; ERROR_KINDS as usize] = [
    "no_slot",
    "unparsed_segments",
    "drops_full",
    "flows_full",
    "handshakes_full",
];
