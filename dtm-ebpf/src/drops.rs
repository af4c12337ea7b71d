//! Counts dropped packets by owner and reason, at the tracepoint `kfree_skb`.
//!
//! One drop is one count, for one owner: see `attribution`.

use core::ops::Range;

use aya_ebpf::{bindings::BPF_NOEXIST, programs::BtfTracePointContext};
use aya_log_ebpf::warn;
use dtm_common::{
    drops::{DROP_RECEIVE, DropKey, DropTally, HANDLE_MULTICAST, HANDLERS, OWNER_NONE},
    errors::ERROR_DROPS_FULL,
    packet::addresses,
};

use crate::{
    attribution::{of_packet, receiver},
    maps::{
        DROPS, HANDLED, NO_DROP_HIGH, NO_DROP_LOW, REASON_NOT_SPECIFIED, SHINFO_GSO_SEGS, SKB_DEV, SKB_END,
        SKB_HEAD, SKB_LEN, SKB_NETWORK_HEADER, SKB_PROTOCOL, SKB_TAIL, count_error,
    },
    skb::{DroppedPacket, field, read_kernel},
};

/// `ETH_P_IP` and `ETH_P_IPV6` in network byte order, as `sk_buff.protocol` has them.
const PROTOCOL_IPV4: u16 = 0x0800_u16.to_be();
const PROTOCOL_IPV6: u16 = 0x86dd_u16.to_be();

/// What the first four bits of every address of a group are in IPv4 (224.0.0.0/4).
const IPV4_GROUPS: u8 = 0xe;

/// Adds this drop to its owner's count, unless its reason says it is none.
///
/// Plain adds: the kernel skips a tracepoint program that would interrupt itself on its CPU.
#[inline(always)]
pub(crate) fn count(ctx: &BtfTracePointContext) {
    let skb: *const u8 = ctx.arg(0);
    let not_specified = REASON_NOT_SPECIFIED.load();
    // A kernel without reasons has no third argument; the verifier prunes the branch that asks for it.
    let reason = if not_specified == u32::MAX {
        0
    } else {
        ctx.arg::<u32>(2)
    };
    if is_no_drop(reason) {
        return;
    }
    // Only what came from or goes to a network has a protocol; the rest are buffers of local sockets.
    // SAFETY: the offsets are the running kernel's, and the verifier checks every access against its types.
    let protocol = unsafe { field::<u16>(skb, SKB_PROTOCOL.load()) };
    if protocol == 0 {
        return;
    }
    // SAFETY: as above.
    let device = unsafe { field::<*const u8>(skb, SKB_DEV.load()) };
    // A socket's clean-up of what it already delivered has no device.
    if reason == not_specified && (device.is_null() || is_handled(ctx, 0..HANDLE_MULTICAST)) {
        return;
    }
    let (owner, direction) = match receiver(ctx) {
        OWNER_NONE => {
            let addresses = match protocol {
                PROTOCOL_IPV4 | PROTOCOL_IPV6 => packet(skb).and_then(|packet| addresses(&packet)),
                _ => None,
            };
            let is_for_group = protocol == PROTOCOL_IPV4
                && addresses.is_some_and(|(_source, destination)| destination.0[12] >> 4 == IPV4_GROUPS);
            if reason == not_specified && is_for_group && is_handled(ctx, HANDLE_MULTICAST..HANDLERS.len()) {
                return;
            }
            of_packet(skb, device, addresses)
        }
        owner => (owner, DROP_RECEIVE),
    };
    add(
        ctx,
        DropKey {
            owner,
            reason,
            direction,
        },
        tally(skb),
    );
}

/// Whether the packet was freed by one of these of [`HANDLERS`].
#[inline(always)]
fn is_handled(ctx: &BtfTracePointContext, by: Range<usize>) -> bool {
    let location: u64 = ctx.arg(1);
    let mut handlers = HANDLED.load().into_iter().skip(by.start).take(by.len());
    handlers.any(|[start, end]| (start..end).contains(&location))
}

/// Whether the daemon marked `reason` as one that loses nothing.
#[inline(always)]
fn is_no_drop(reason: u32) -> bool {
    let bits = match reason {
        0..64 => NO_DROP_LOW.load(),
        64..128 => NO_DROP_HIGH.load(),
        _ => 0,
    };
    bits >> (reason & 63) & 1 == 1
}

/// The packet's bytes from its network header on.
#[inline(always)]
fn packet(skb: *const u8) -> Option<DroppedPacket> {
    // SAFETY: offsets of the running kernel's `sk_buff`; `tail` is an offset from `head` on 64-bit kernels.
    let (head, header, tail) = unsafe {
        (
            field::<u64>(skb, SKB_HEAD.load()),
            field::<u16>(skb, SKB_NETWORK_HEADER.load()),
            field::<u32>(skb, SKB_TAIL.load()),
        )
    };
    let header = u64::from(header);
    let length = u64::from(tail).checked_sub(header)?;
    Some(DroppedPacket {
        network: (head + header) as *const u8,
        length: length as usize,
    })
}

/// What this drop loses: `gso_segs` packets, or one.
#[inline(always)]
fn tally(skb: *const u8) -> DropTally {
    // SAFETY: offsets of the running kernel's `sk_buff`; `skb_shared_info` is at `head + end`.
    let (len, shared_info) = unsafe {
        let head = field::<u64>(skb, SKB_HEAD.load());
        let end = field::<u32>(skb, SKB_END.load());
        (
            field::<u32>(skb, SKB_LEN.load()),
            (head + u64::from(end)) as *const u8,
        )
    };
    // SAFETY: a `u16` has no invalid pattern; the helper checks the address.
    let segments: Option<u16> =
        unsafe { read_kernel(shared_info.wrapping_add(SHINFO_GSO_SEGS.load() as usize)) };
    DropTally {
        packets: u64::from(segments.unwrap_or(0).max(1)),
        bytes: u64::from(len),
    }
}

#[inline(always)]
fn add(ctx: &BtfTracePointContext, key: DropKey, tally: DropTally) {
    if add_to_existing(&key, tally) || DROPS.insert(key, tally, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Another CPU entered the key in between, or the map is full.
    if !add_to_existing(&key, tally) && count_error(ERROR_DROPS_FULL) == 1 {
        warn!(
            ctx,
            "the map of drops is full: further reasons and containers are not entered"
        );
    }
}

#[inline(always)]
fn add_to_existing(key: &DropKey, tally: DropTally) -> bool {
    let Some(existing) = DROPS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: this CPU's own value, and the verifier has checked the pointer.
    unsafe {
        (*existing).packets += tally.packets;
        (*existing).bytes += tally.bytes;
    }
    true
}
