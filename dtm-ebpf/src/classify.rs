//! Counts a packet at a TC hook: bytes, wire packets, wire bytes. Never changes, stops or reports one.

use aya_ebpf::programs::TcContext;
use dtm_common::{
    errors::ERROR_NO_SLOT,
    index::{InterfaceKey, SLOT_BY_INTERFACE},
    packet::segment_header_length,
    traffic::Direction,
};

use crate::{
    counters::{Plain, count_all, measure, segmentation},
    maps::{NETNS, SLOT, count_error, slot_of},
    skb::SkbPacket,
    views::Start,
};

/// Adds this packet to the counters of the interface it passes, or of the slot this program was loaded for.
#[inline(always)]
pub(crate) fn count(ctx: &TcContext, direction: Direction) {
    // SAFETY: the context is valid for the whole run of the program.
    let skb = unsafe { &*ctx.skb.skb };
    // Never so: instructions that make it another program.
    if cfg!(feature = "other-program") && skb.ifindex == 0 {
        return;
    }
    let slot = match SLOT.load() {
        SLOT_BY_INTERFACE => slot_of(InterfaceKey {
            netns: NETNS.load(),
            ifindex: skb.ifindex,
        }),
        // The verifier knows the number: of these two branches one is left.
        slot => Some(slot),
    };
    let Some(slot) = slot else {
        count_error(ERROR_NO_SLOT);
        return;
    };
    let segmentation = segmentation(skb, skb.vlan_present != 0);
    let headers = if segmentation.gso_size == 0 {
        None
    } else {
        segment_header_length(&SkbPacket(ctx.skb.skb))
    };
    let added = measure(skb, segmentation, headers);
    count_all::<Plain>(ctx.skb.skb, Start::LinkLayer, slot, direction, added);
}
