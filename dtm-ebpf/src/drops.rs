//! Counts dropped packets by owner and reason, at the tracepoint `kfree_skb`.
//!
//! Whose drop it is: the owner of the device's slot or of its namespace, else the container that has the source
//! address, else the one that has the destination address. One drop is one count, for one owner.

use aya_ebpf::{bindings::BPF_NOEXIST, programs::BtfTracePointContext};
use aya_log_ebpf::warn;
use dtm_common::{
    drops::{
        Address, DROP_RECEIVE, DROP_TRANSMIT, DROP_UNKNOWN, DropKey, DropTally, OWNER_NONE, OWNER_PENDING,
    },
    errors::ERROR_DROPS_FULL,
    index::InterfaceKey,
    packet::addresses,
};

use crate::{
    maps::{
        ADDRESS_OWNERS, DEV_IFINDEX, DEV_NET, DROPS, HANDLED, NET_INUM, NETNS, NETNS_INUM, NETNS_OWNERS,
        NO_DROP_HIGH, NO_DROP_LOW, OWNERS, REASON_NOT_SPECIFIED, SHINFO_GSO_SEGS, SKB_DEV, SKB_END, SKB_HEAD,
        SKB_LEN, SKB_NETWORK_HEADER, SKB_PROTOCOL, SKB_TAIL, count_error, slot_of,
    },
    skb::{DroppedPacket, read_kernel},
};

/// `ETH_P_IP` and `ETH_P_IPV6` in network byte order, as `sk_buff.protocol` has them.
const PROTOCOL_IPV4: u16 = 0x0800_u16.to_be();
const PROTOCOL_IPV6: u16 = 0x86dd_u16.to_be();

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
    if reason == not_specified && (device.is_null() || is_handled(ctx.arg(1))) {
        return;
    }
    let addresses = match protocol {
        PROTOCOL_IPV4 | PROTOCOL_IPV6 => packet(skb).and_then(|packet| addresses(&packet)),
        _ => None,
    };
    let (owner, direction) = attribute(device_owner(device), addresses);
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

/// Whether the packet was freed by a function that had handled it.
#[inline(always)]
fn is_handled(location: u64) -> bool {
    HANDLED
        .load()
        .iter()
        .any(|[start, end]| (*start..*end).contains(&location))
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

/// The field of type `T` at `offset` of the kernel's structure at `base`.
///
/// # Safety
///
/// `base` must be a pointer the verifier knows the type of, and `offset` that of a field of type `T` in it.
#[inline(always)]
unsafe fn field<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: the caller's promise; a fault reads as zero.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}

/// Who owns the device the packet was at: its slot's owner in dtm's own namespace, its namespace's in another.
#[inline(always)]
fn device_owner(device: *const u8) -> u32 {
    if device.is_null() {
        return OWNER_NONE;
    }
    // SAFETY: `sk_buff.dev` is a `net_device`; where the kernel keeps something else in the field, reads fault to 0.
    let (ifindex, inum) = unsafe {
        let net = field::<*const u8>(device, DEV_NET.load());
        if net.is_null() {
            return OWNER_NONE;
        }
        (
            field::<u32>(device, DEV_IFINDEX.load()),
            field::<u32>(net, NET_INUM.load()),
        )
    };
    let owner = if inum == NETNS_INUM.load() {
        slot_of(InterfaceKey {
            netns: NETNS.load(),
            ifindex,
        })
        .and_then(|slot| OWNERS.get_ptr(slot))
    } else {
        NETNS_OWNERS.get_ptr(inum)
    };
    // SAFETY: the verifier has checked the pointer.
    owner.map_or(OWNER_NONE, |owner| unsafe { *owner })
}

/// Whose drop this is and which way the packet went.
#[inline(always)]
fn attribute(device_owner: u32, addresses: Option<(Address, Address)>) -> (u32, u32) {
    let Some((source, destination)) = addresses else {
        return (device_owner, DROP_UNKNOWN);
    };
    let source_owner = address_owner(&source);
    if device_owner == OWNER_NONE {
        if source_owner != OWNER_NONE {
            return (source_owner, DROP_TRANSMIT);
        }
        return match address_owner(&destination) {
            OWNER_NONE => (OWNER_NONE, DROP_UNKNOWN),
            owner => (owner, DROP_RECEIVE),
        };
    }
    let direction = if source_owner == device_owner {
        DROP_TRANSMIT
    } else if device_owner & OWNER_PENDING != 0 {
        // Its addresses are not known yet.
        DROP_UNKNOWN
    } else {
        DROP_RECEIVE
    };
    (device_owner, direction)
}

#[inline(always)]
fn address_owner(address: &Address) -> u32 {
    // SAFETY: the verifier has checked the pointer.
    ADDRESS_OWNERS
        .get_ptr(address)
        .map_or(OWNER_NONE, |owner| unsafe { *owner })
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
