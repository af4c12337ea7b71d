//! The matrix: who sends how much to whom.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
};
use dtm_common::{
    errors::ERROR_FLOWS_FULL,
    flows::FlowKey,
    index::{InterfaceKey, SLOT_BY_INTERFACE},
    traffic::Tally,
    views::{SITE_BRIDGE, SITE_COUNTED, Volume, is_pseudo},
};

use crate::{
    counters::Add,
    maps::{FLOWS, NETNS, SENDER_LEVELS, SENDERS, SITES, SLOT, count_error, slot_of},
    skb::SkbPacket,
};

/// Levels of the hierarchy that a container's group may be at.
const LEVELS: u32 = 16;

/// Adds a packet to its pair.
#[inline(always)]
pub(crate) fn add<A: Add>(source: u32, destination: u32, added: Tally) {
    let mut key = FlowKey { source, destination };
    if add_to_existing::<A>(&key, added) {
        return;
    }
    let first = Volume {
        bytes: added.bytes,
        packets: added.packets,
    };
    if FLOWS.insert(key, first, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Another CPU entered the pair in between, or there is no room.
    if !add_to_existing::<A>(&key, added) {
        count_error(ERROR_FLOWS_FULL);
        // In the same place: the constant's own would be a section of constants more.
        key = FlowKey::REST;
        add_to_existing::<A>(&key, added);
    }
}

#[inline(always)]
fn add_to_existing<A: Add>(key: &FlowKey, added: Tally) -> bool {
    let Some(volume) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: this CPU's own value, which is aligned, and the verifier has checked the pointer.
    unsafe {
        A::add(&raw mut (*volume).bytes, added.bytes);
        A::add(&raw mut (*volume).packets, added.packets);
    }
    true
}

/// Whether a packet that somebody is offered was counted where it was sent: by its source address, by the interface it came
/// from, or by the group of the socket that sent it.
#[inline(always)]
pub(crate) fn is_counted_elsewhere(packet: &SkbPacket, sender: u32) -> bool {
    if !is_pseudo(sender) {
        return true;
    }
    // Elsewhere than at a host end the interface is the container's own device.
    if SLOT.load() != SLOT_BY_INTERFACE {
        return false;
    }
    // SAFETY: the context is valid for the whole run of the program.
    let from = unsafe { (*packet.0).ingress_ifindex };
    if from == 0 {
        return is_of_sender(packet);
    }
    let slot = slot_of(InterfaceKey {
        netns: NETNS.load(),
        ifindex: from,
    });
    let site = slot.and_then(|slot| SITES.get_ptr(slot));
    // SAFETY: the verifier has checked the pointer.
    site.is_some_and(|site| unsafe { (*site).flags } & (SITE_COUNTED | SITE_BRIDGE) != 0)
}

/// Whether a socket of this host has sent it whose group is counted.
#[inline(always)]
fn is_of_sender(packet: &SkbPacket) -> bool {
    let Some(levels) = SENDER_LEVELS.get_ptr(0) else {
        return false;
    };
    // SAFETY: the verifier has checked the pointer.
    let levels = unsafe { *levels };
    if levels == 0 {
        return false;
    }
    // SAFETY: the context is valid for the whole run of the program.
    let own = unsafe { bpf_skb_cgroup_id(packet.0.cast()) };
    if own == 0 {
        return false;
    }
    if SENDERS.get_ptr(own).is_some() {
        return true;
    }
    for level in 1..LEVELS {
        if levels >> level & 1 == 0 {
            continue;
        }
        // SAFETY: as above.
        let ancestor = unsafe { bpf_skb_ancestor_cgroup_id(packet.0.cast(), level.cast_signed()) };
        if ancestor == 0 {
            return false;
        }
        if SENDERS.get_ptr(ancestor).is_some() {
            return true;
        }
    }
    false
}
