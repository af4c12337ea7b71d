//! Counts a packet at a TC hook: bytes, wire packets, wire bytes. Never changes, stops or reports one.

use aya_ebpf::{helpers::generated::bpf_get_smp_processor_id, programs::TcContext};
use dtm_common::{
    errors::{ERROR_NO_SLOT, ERROR_UNPARSED_SEGMENTS},
    index::InterfaceKey,
    packet::{Segmentation, segment_header_length, wire},
    traffic::Direction,
};

use crate::{
    maps::{COUNTERS, NETNS, SLOTS, count_error, slot_of},
    skb::TcPacket,
};

/// Adds this packet to the counters of the interface it passes.
///
/// Plain adds: TC programs run with softirqs off, so nothing else touches this CPU's bank meanwhile.
#[inline(always)]
pub(crate) fn count(ctx: &TcContext, direction: Direction) {
    // SAFETY: the context is valid for the whole run of the program.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(slot) = slot_of(InterfaceKey {
        netns: NETNS.load(),
        ifindex: skb.ifindex,
    }) else {
        count_error(ERROR_NO_SLOT);
        return;
    };
    let segmentation = Segmentation {
        gso_segs: skb.gso_segs,
        gso_size: skb.gso_size,
        tag_in_metadata: skb.vlan_present != 0,
    };
    // Only a buffer of several segments repeats its headers; for all others nothing is parsed.
    let header_length = if segmentation.gso_size == 0 {
        None
    } else {
        let length = segment_header_length(&TcPacket(ctx));
        if length.is_none() {
            count_error(ERROR_UNPARSED_SEGMENTS);
        }
        length
    };
    let wire = wire(skb.len, segmentation, header_length);
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // A slot past the bank would be another CPU's.
    let slots = SLOTS.load();
    let counters = if slot < slots {
        COUNTERS.get_ptr_mut(cpu * slots + slot)
    } else {
        None
    };
    let Some(counters) = counters else {
        count_error(ERROR_NO_SLOT);
        return;
    };
    // SAFETY: the verifier has checked the pointer, and this CPU's bank is ours alone (see above).
    unsafe {
        let tally = match direction {
            Direction::Receive => &mut (*counters).receive,
            Direction::Transmit => &mut (*counters).transmit,
        };
        tally.bytes += u64::from(skb.len);
        tally.packets += u64::from(wire.packets);
        tally.wire_bytes += wire.bytes;
    }
}
