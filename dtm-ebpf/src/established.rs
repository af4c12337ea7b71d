//! A walk over the sockets of a network namespace: how many connections each container has, and having them tell of themselves,
//! those that are older than the programs included.

use aya_ebpf::{
    bindings::tcp_sock,
    helpers::generated::{bpf_getsockopt, bpf_setsockopt, bpf_skc_to_tcp_sock},
};
use dtm_common::{
    drops::OWNER_NONE,
    tcp::{TELLS_STATES, UNTOLD},
};

use crate::{
    maps::{ESTABLISHED_NOW, SOCK_STATE, TCP_TELLS, WANTED},
    skb::field,
    sockets::owner_of,
    tcp::is_current,
};

/// `struct bpf_iter__tcp` of the kernel: pointers in places of 8 bytes each.
#[repr(C)]
pub(crate) struct TcpIteration {
    meta: u64,
    sk_common: *const u8,
}

/// `SOL_TCP`, and the option of Linux 6.12 that has a connection's flags, in `include/uapi/linux/bpf.h`.
const SOL_TCP: i32 = 6;
const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;

/// Takes in one socket; at the end of the walk there is none.
#[inline(always)]
pub(crate) fn visit(ctx: *mut TcpIteration) {
    // SAFETY: the context is valid for the whole run of the program.
    let sk = unsafe { (*ctx).sk_common };
    // SAFETY: every kind of socket begins with what all have.
    if sk.is_null() || !is_current(unsafe { field::<u8>(sk, SOCK_STATE.load()) }) {
        return;
    }
    // SAFETY: the helper takes what every socket begins with.
    let sk = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) };
    if sk.is_null() {
        return;
    }
    let owner = owner_of(sk.cast::<u8>().cast_const());
    if owner == OWNER_NONE {
        return;
    }
    ask(sk);
    // SAFETY: the verifier knows that it is a `tcp_sock`, and checks.
    let tells = unsafe { field::<u8>(sk.cast::<u8>().cast_const(), TCP_TELLS.load()) };
    let one = if u32::from(tells) & TELLS_STATES == 0 {
        UNTOLD
    } else {
        1
    };
    if let Some(count) = ESTABLISHED_NOW.get_ptr_mut(owner) {
        // SAFETY: the verifier has checked the pointer; one walk is made at a time.
        unsafe { *count += one }
    }
}

/// Asks a connection to tell of what is wanted. A kernel that does not know the option refuses both.
#[inline(always)]
fn ask(sk: *mut tcp_sock) {
    let mut flags = 0_u32;
    // SAFETY: the helpers take a connection and four bytes.
    unsafe {
        let value = &raw mut flags;
        if bpf_getsockopt(sk.cast(), SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value.cast(), 4) == 0 {
            *value |= WANTED.load();
            let _refused = bpf_setsockopt(sk.cast(), SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value.cast(), 4);
        }
    }
}
