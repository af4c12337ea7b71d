//! Counts what the sockets of a control group send and receive, for containers that use the host's network: bytes from
//! the IP header on, wire packets, and bytes with each segment's headers. Never changes or stops one.

use core::arch::asm;

use aya_ebpf::programs::SkBuffContext;
use dtm_common::{errors::ERROR_NO_SLOT, packet::segment_header_length_from_ip, traffic::Direction};

use crate::{
    counters::{measure, segmentation, tally_of},
    maps::{SLOT, count_error},
    skb::SkbPacket,
};

/// The index of the loopback interface of every network namespace.
const LOOPBACK: u32 = 1;

/// Adds this packet to the counters of the slot this program was loaded for, unless it stays in its namespace.
///
/// Atomic adds, although each CPU has its own bank: this runs in the sender's process too, and there the program may be
/// interrupted by itself, in another process or for a packet that comes in.
#[inline(always)]
pub(crate) fn count(ctx: &SkBuffContext, direction: Direction) {
    // SAFETY: the context is valid for the whole run of the program.
    let skb = unsafe { &*ctx.skb.skb };
    if skb.ifindex == LOOPBACK || cfg!(feature = "other-program") && skb.ifindex == u32::MAX {
        return;
    }
    // A tag belongs to the Ethernet header, which is not counted here.
    let segmentation = segmentation(skb, false);
    let headers = if segmentation.gso_size == 0 {
        None
    } else {
        segment_header_length_from_ip(&SkbPacket(ctx.skb.skb))
    };
    let added = measure(skb, segmentation, headers);
    let Some(tally) = tally_of(SLOT.load(), direction) else {
        count_error(ERROR_NO_SLOT);
        return;
    };
    // SAFETY: the verifier has checked the pointer; the counters are aligned, and only added to atomically.
    unsafe {
        add(&raw mut (*tally).bytes, added.bytes);
        add(&raw mut (*tally).packets, added.packets);
        add(&raw mut (*tally).wire_bytes, added.wire_bytes);
    }
}

/// Adds to a counter in one instruction, the one that every kernel knows.
///
/// `AtomicU64` does not exist on this target, and LLVM may choose an instruction that gives the old value back, of kernel
/// 5.12, where it thinks that somebody wants it.
///
/// # Safety
///
/// `counter` must be aligned, and valid for writes.
#[inline(always)]
unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's promise; no register changes.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value, options(nostack));
    }
}
