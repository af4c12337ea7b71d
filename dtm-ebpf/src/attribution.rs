//! Whose a drop is, and which way the packet went: whatever knows it best is asked first, and one is found or none.
//!
//! 1. The socket that the packet was for, where the kernel says so: nothing else knows that it got there.
//! 2. The device, by its slot's or its namespace's owner: the direction is that of the addresses.
//! 3. The addresses: the sender's, else the receiver's.
//! 4. The socket that sent it.
//! 5. The connection, as it was before addresses were translated.

use core::arch::asm;

use aya_ebpf::programs::BtfTracePointContext;
use dtm_common::{
    drops::{Address, DROP_RECEIVE, DROP_TRANSMIT, DROP_UNKNOWN, OWNER_NONE, OWNER_PENDING},
    index::InterfaceKey,
};

use crate::{
    maps::{
        ADDRESS_OWNERS, CT_DESTINATION, CT_FAMILY, CT_SOURCE, DEV_IFINDEX, DEV_NET, HAS_RECEIVER, NET_INUM,
        NETNS, NETNS_INUM, NETNS_OWNERS, OWNERS, SKB_CONNECTION, SKB_SK, slot_of,
    },
    skb::{field, read_kernel},
    sockets::owner_of,
};

/// An owner, and a direction of `dtm_common::drops`.
pub(crate) type Part = (u32, u32);

/// Nobody's.
const NOBODY: Part = (OWNER_NONE, DROP_UNKNOWN);

/// What stands for an offset that the running kernel's type information does not give.
const UNKNOWN: u32 = u32::MAX;

/// What `sk_buff._nfct` has beside the address of the connection, and from which of its values on the packet is an answer
/// (`IP_CT_IS_REPLY`).
const CONNECTION_STATE: u64 = 7;
const IS_ANSWER: u64 = 3;

/// `AF_INET` and `AF_INET6`.
const INET: u16 = 2;
const INET6: u16 = 10;

/// The owner of the socket that the packet was for, where the kernel tells of it.
#[inline(always)]
pub(crate) fn receiver(ctx: &BtfTracePointContext) -> u32 {
    // The verifier prunes the rest where there is no such argument.
    if HAS_RECEIVER.load() == 0 {
        return OWNER_NONE;
    }
    let sk: *const u8 = ctx.arg(3);
    // It may be null. Linux 6.11 and 6.12.0 do not know that, and would take the comparison out for being needless, and read
    // from the address without the net that catches faults. Of a number they assume nothing.
    let mut low = sk as u64;
    // SAFETY: nothing but the register changes.
    unsafe {
        asm!("w3 = w3", inlateout("r3") low, options(nomem, nostack, preserves_flags));
    }
    if low == 0 {
        return OWNER_NONE;
    }
    owner_of(sk)
}

/// Whose the drop is by everything that the packet itself has.
#[inline(always)]
pub(crate) fn of_packet(skb: *const u8, device: *const u8, addresses: Option<(Address, Address)>) -> Part {
    let device = device_owner(device);
    let found = match (device, addresses) {
        (OWNER_NONE, None) => NOBODY,
        (OWNER_NONE, Some((source, destination))) => {
            between(&source, &destination, DROP_TRANSMIT, DROP_RECEIVE)
        }
        (device, None) => (device, DROP_UNKNOWN),
        (device, Some((source, _destination))) => (device, direction_at(device, &source)),
    };
    if found.0 != OWNER_NONE {
        return found;
    }
    // SAFETY: the offset is the running kernel's, and the verifier checks the access against its types.
    match owner_of(unsafe { field::<*const u8>(skb, SKB_SK.load()) }) {
        OWNER_NONE => of_connection(skb),
        owner => (owner, DROP_TRANSMIT),
    }
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

/// Which way a packet goes that is at its owner's device.
#[inline(always)]
fn direction_at(owner: u32, source: &Address) -> u32 {
    if address_owner(source) == owner {
        DROP_TRANSMIT
    } else if owner & OWNER_PENDING != 0 {
        // Its addresses are not known yet.
        DROP_UNKNOWN
    } else {
        DROP_RECEIVE
    }
}

/// Whose of the two a packet between them is, with the direction if it is the first's or the second's.
#[inline(always)]
fn between(one: &Address, other: &Address, of_one: u32, of_other: u32) -> Part {
    match address_owner(one) {
        OWNER_NONE => match address_owner(other) {
            OWNER_NONE => NOBODY,
            owner => (owner, of_other),
        },
        owner => (owner, of_one),
    }
}

#[inline(always)]
fn address_owner(address: &Address) -> u32 {
    // SAFETY: the verifier has checked the pointer.
    ADDRESS_OWNERS
        .get_ptr(address)
        .map_or(OWNER_NONE, |owner| unsafe { *owner })
}

/// Whose the packet's connection is, by the addresses of its first packet as it was sent.
#[inline(always)]
fn of_connection(skb: *const u8) -> Part {
    if SKB_CONNECTION.load() == UNKNOWN {
        return NOBODY;
    }
    // SAFETY: the offset is the running kernel's, and the verifier checks the access against its types.
    let word = unsafe { field::<u64>(skb, SKB_CONNECTION.load()) };
    let connection = (word & !CONNECTION_STATE) as *const u8;
    if connection.is_null() {
        return NOBODY;
    }
    let (Some(source), Some(destination)) = (
        connection_address(connection, CT_SOURCE.load()),
        connection_address(connection, CT_DESTINATION.load()),
    ) else {
        return NOBODY;
    };
    if word & CONNECTION_STATE >= IS_ANSWER {
        between(&source, &destination, DROP_RECEIVE, DROP_TRANSMIT)
    } else {
        between(&source, &destination, DROP_TRANSMIT, DROP_RECEIVE)
    }
}

/// The address at `offset` of a connection.
#[inline(always)]
fn connection_address(connection: *const u8, offset: u32) -> Option<Address> {
    let at = connection.wrapping_add(offset as usize);
    // SAFETY: bytes have no invalid pattern, and the helper checks the address; so below.
    let family = unsafe { read_kernel::<u16>(connection.wrapping_add(CT_FAMILY.load() as usize)) };
    match family {
        // SAFETY: a number has no invalid pattern, and the helper checks the address.
        Some(INET) => Some(Address::v4(unsafe { read_kernel(at) }?)),
        // SAFETY: as above.
        Some(INET6) => Some(Address(unsafe { read_kernel(at) }?)),
        _ => None,
    }
}
