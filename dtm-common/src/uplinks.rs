//! What arrives at uplinks: a slot of counters for each, in one bank per CPU.

use crate::views::{PROTOCOLS, Volume};

/// The most uplinks there can be.
pub const UPLINKS_MAX: u32 = 16;

/// Bytes of an interface's name, its terminating zero included: the kernel's `IFNAMSIZ`.
pub const NAME_BYTES: usize = 16;

/// What one CPU has seen arrive at one uplink. Two cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkCounters {
    /// By protocol, in the order of [`Protocol::ALL`](crate::views::Protocol::ALL): frames as the driver hands them over.
    pub protocols: [Volume; PROTOCOLS],
    /// Those of TCP that ask for a connection: SYN without ACK.
    pub syns: u64,
    /// In the first bank the uplink's name, filled up with zeroes; the daemon's. What counts goes on under it with the next
    /// daemon, and when the interface comes again.
    pub name: [u8; NAME_BYTES],
    /// Fills the cache line; always zero.
    pub reserved: [u64; 5],
}

const _: () = assert!(size_of::<UplinkCounters>() == 128, "a slot is two cache lines");
