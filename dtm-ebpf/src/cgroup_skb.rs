//! Counts what the sockets of a control group send and receive, for containers that use the host's network: bytes from
//! the IP header on, wire packets, and bytes with each segment's headers. Never changes or stops one.

use aya_ebpf::programs::SkBuffContext;
use dtm_common::{packet::segment_header_length_from_ip, traffic::Direction};

use crate::{
    counters::{Atomic, count_all, measure, segmentation},
    maps::SLOT,
    skb::SkbPacket,
    views::Start,
};

/// The index of the loopback interface of every network namespace.
const LOOPBACK: u32 = 1;

/// Adds this packet to the counters of the slot this program was loaded for, unless it stays in its namespace.
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
    count_all::<Atomic>(ctx.skb.skb, Start::NetworkLayer, SLOT.load(), direction, added);
}
