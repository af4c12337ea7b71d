//! Counts what arrives at an uplink, before the host's firewall sees any of it. Never changes, stops or reports a packet.

use aya_ebpf::{helpers::generated::bpf_get_smp_processor_id, programs::XdpContext};
use dtm_common::{
    errors::ERROR_NO_SLOT,
    packet::{Packet as _, head},
    uplinks::UPLINKS_MAX,
    views::{PROTOCOLS, Volume},
};

use crate::{
    maps::{SLOT, UPLINKS, count_error},
    xdp::XdpPacket,
};

/// Adds this packet to the counters of the uplink that this program was loaded for. XDP runs with softirqs off: nothing else
/// touches this CPU's counters meanwhile.
#[inline(always)]
pub(crate) fn count(ctx: &XdpContext) {
    let slot = SLOT.load();
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let counters = if slot < UPLINKS_MAX {
        UPLINKS.get_ptr_mut(cpu * UPLINKS_MAX + slot)
    } else {
        None
    };
    let Some(counters) = counters else {
        count_error(ERROR_NO_SLOT);
        return;
    };
    let packet = XdpPacket(ctx.ctx);
    let head = head(&packet);
    let protocol = packet.hide(head.protocol as u32) as usize;
    let is_request = packet.hide(head.is_request.into()) != 0;
    // Never: for the verifier, which does not know.
    if protocol >= PROTOCOLS {
        return;
    }
    // SAFETY: the verifier has checked the pointer and the index, and the counters are aligned.
    unsafe {
        let volume = (&raw mut (*counters).protocols).cast::<Volume>().add(protocol);
        (*volume).bytes += packet.length();
        (*volume).packets += 1;
        if is_request {
            (*counters).syns += 1;
        }
    }
}
