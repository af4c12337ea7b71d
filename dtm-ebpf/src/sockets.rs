//! Whose a socket is: the container in whose network namespace it is, or on the host's network the container in whose
//! control group it was made.

use dtm_common::drops::OWNER_NONE;

use crate::{
    maps::{
        CGROUP_NODE, GROUP_OWNERS, NET_INUM, NETNS_INUM, NETNS_OWNERS, NODE_ID, NODE_PARENT, SOCK_CGROUP,
        SOCK_LISTENER, SOCK_NET, SOCK_STATE,
    },
    skb::{field, read_kernel},
};

/// What stands for an offset that the running kernel's type information does not give.
const UNKNOWN: u32 = u32::MAX;

/// `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV`: the kernel's structures of these connections are the beginning of a socket.
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;

/// How far below its container's a socket's control group may be.
const DEPTH: u32 = 8;

/// The owner of a socket, as drops have it: a container's number, a slot with `OWNER_PENDING`, or `OWNER_NONE`.
///
/// `sk` is a `struct sock` that the verifier knows as one, or null.
#[inline(always)]
pub(crate) fn owner_of(sk: *const u8) -> u32 {
    // The verifier prunes the rest where the kernel does not say where these are.
    if SOCK_NET.load() == UNKNOWN || sk.is_null() {
        return OWNER_NONE;
    }
    // SAFETY: the offsets are the running kernel's, and the verifier checks every access against its types.
    let (net, state) = unsafe {
        (
            field::<*const u8>(sk, SOCK_NET.load()),
            field::<u8>(sk, SOCK_STATE.load()),
        )
    };
    if net.is_null() {
        return OWNER_NONE;
    }
    // SAFETY: as above.
    let inum = unsafe { field::<u32>(net, NET_INUM.load()) };
    if inum != NETNS_INUM.load() {
        // SAFETY: the verifier has checked the pointer.
        return NETNS_OWNERS
            .get_ptr(inum)
            .map_or(OWNER_NONE, |owner| unsafe { *owner });
    }
    match state {
        TIME_WAIT => OWNER_NONE,
        NEW_SYN_RECV => {
            // The verifier takes the field for a number, for it is one of other sockets.
            // SAFETY: the offset is the running kernel's.
            let listener = unsafe { field::<u64>(sk, SOCK_LISTENER.load()) };
            group_owner::<false>(listener as *const u8)
        }
        _ => group_owner::<true>(sk),
    }
}

/// Whether a socket is in another network namespace than dtm's own.
///
/// `sk` is as of [`owner_of`], and not null; it may be how any socket begins.
#[inline(always)]
pub(crate) fn is_outside(sk: *const u8) -> bool {
    if SOCK_NET.load() == UNKNOWN {
        return true;
    }
    // SAFETY: the offsets are the running kernel's, and the verifier checks every access against its types.
    unsafe {
        let net = field::<*const u8>(sk, SOCK_NET.load());
        net.is_null() || field::<u32>(net, NET_INUM.load()) != NETNS_INUM.load()
    }
}

/// The owner of the control group that a socket was made in, or of one further up.
#[inline(always)]
fn group_owner<const IS_KNOWN: bool>(sk: *const u8) -> u32 {
    let group = pointer::<IS_KNOWN>(sk, SOCK_CGROUP.load());
    if group.is_null() {
        return OWNER_NONE;
    }
    let mut node = pointer::<IS_KNOWN>(group, CGROUP_NODE.load());
    for _ in 0..DEPTH {
        if node.is_null() {
            return OWNER_NONE;
        }
        let id = word::<IS_KNOWN>(node, NODE_ID.load());
        if let Some(owner) = GROUP_OWNERS.get_ptr(id) {
            // SAFETY: the verifier has checked the pointer.
            return unsafe { *owner };
        }
        node = pointer::<IS_KNOWN>(node, NODE_PARENT.load());
    }
    OWNER_NONE
}

/// The word at `offset` of the structure at `base`, whose type the verifier knows or not.
#[inline(always)]
fn word<const IS_KNOWN: bool>(base: *const u8, offset: u32) -> u64 {
    if IS_KNOWN {
        // SAFETY: the verifier knows the type of `base`, and checks.
        unsafe { field(base, offset) }
    } else {
        // SAFETY: a number has no invalid pattern, and the helper checks the address.
        unsafe { read_kernel(base.wrapping_add(offset as usize)) }.unwrap_or(0)
    }
}

#[inline(always)]
fn pointer<const IS_KNOWN: bool>(base: *const u8, offset: u32) -> *const u8 {
    word::<IS_KNOWN>(base, offset) as *const u8
}
