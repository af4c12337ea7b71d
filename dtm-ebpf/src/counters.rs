//! What a packet adds to which counters; how they are added to is the hook's business.

use core::arch::asm;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_get_smp_processor_id};
use dtm_common::{
    errors::{ERROR_NO_SLOT, ERROR_UNPARSED_SEGMENTS},
    packet::{SegmentHeaders, Segmentation, wire},
    traffic::{Direction, Tally},
};

use crate::{
    maps::{COUNTERS, SLOTS, count_error},
    skb::SkbPacket,
    views::{self, Start},
};

/// What the kernel says about a buffer's segments.
#[inline(always)]
pub(crate) fn segmentation(skb: &__sk_buff, tag_in_metadata: bool) -> Segmentation {
    Segmentation {
        gso_segs: skb.gso_segs,
        gso_size: skb.gso_size,
        tag_in_metadata,
    }
}

/// What a buffer adds to its tally. Only one of several segments repeats its headers: for all others nothing needs to be
/// parsed, and `headers` is not looked at.
#[inline(always)]
pub(crate) fn measure(skb: &__sk_buff, segmentation: Segmentation, headers: Option<SegmentHeaders>) -> Tally {
    if segmentation.gso_size != 0 && headers.is_none() {
        count_error(ERROR_UNPARSED_SEGMENTS);
    }
    let wire = wire(skb.len, segmentation, headers);
    Tally {
        bytes: u64::from(skb.len),
        packets: u64::from(wire.packets),
        wire_bytes: wire.bytes,
    }
}

/// This CPU's tally of a slot and a direction; none where there is no such slot.
#[inline(always)]
fn tally_of(slot: u32, direction: Direction) -> Option<*mut Tally> {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // A slot past the bank would be another CPU's.
    let slots = SLOTS.load();
    if slot >= slots {
        return None;
    }
    let counters = COUNTERS.get_ptr_mut(cpu * slots + slot)?;
    // SAFETY: the verifier has checked the pointer; only the address of a field is taken.
    Some(unsafe {
        match direction {
            Direction::Receive => &raw mut (*counters).receive,
            Direction::Transmit => &raw mut (*counters).transmit,
        }
    })
}

/// How a hook may add to a counter of its CPU.
pub(crate) trait Add {
    /// Adds.
    ///
    /// # Safety
    ///
    /// `counter` must be aligned, and valid for reads and writes.
    unsafe fn add(counter: *mut u64, value: u64);
}

/// For programs that run with softirqs off: nothing else touches this CPU's counters meanwhile.
pub(crate) struct Plain;

impl Add for Plain {
    #[inline(always)]
    unsafe fn add(counter: *mut u64, value: u64) {
        // SAFETY: the caller's promise.
        unsafe { *counter += value }
    }
}

/// For programs that run in the sender's process too: there they may be interrupted by themselves, in another process or
/// for a packet that comes in, although each CPU has its own counters.
pub(crate) struct Atomic;

impl Add for Atomic {
    /// In one instruction, the one that every kernel knows.
    ///
    /// `AtomicU64` does not exist on this target, and LLVM may choose an instruction that gives the old value back, of
    /// kernel 5.12, where it thinks that somebody wants it.
    #[inline(always)]
    unsafe fn add(counter: *mut u64, value: u64) {
        // SAFETY: the caller's promise; no register changes.
        unsafe {
            asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value, options(nostack));
        }
    }
}

/// Counts a packet for a slot: its totals, and where it goes. `added` is what it is to the totals.
#[inline(always)]
pub(crate) fn count_all<A: Add>(
    skb: *mut __sk_buff,
    start: Start,
    slot: u32,
    direction: Direction,
    added: Tally,
) {
    let Some(tally) = tally_of(slot, direction) else {
        count_error(ERROR_NO_SLOT);
        return;
    };
    // SAFETY: the verifier has checked the pointer, and the counters are aligned.
    unsafe {
        A::add(&raw mut (*tally).bytes, added.bytes);
        A::add(&raw mut (*tally).packets, added.packets);
        A::add(&raw mut (*tally).wire_bytes, added.wire_bytes);
    }
    views::count::<A>(&SkbPacket(skb), start, slot, direction, added);
}
