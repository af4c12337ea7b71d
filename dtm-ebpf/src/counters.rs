//! What a packet adds to which counters; how they are added to is the hook's business.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_get_smp_processor_id};
use dtm_common::{
    errors::ERROR_UNPARSED_SEGMENTS,
    packet::{SegmentHeaders, Segmentation, wire},
    traffic::{Direction, Tally},
};

use crate::maps::{COUNTERS, SLOTS, count_error};

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
pub(crate) fn tally_of(slot: u32, direction: Direction) -> Option<*mut Tally> {
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
