//! How TCP connections fare: sockets' own events, counted for the container whose socket it is.
//!
//! Connections tell of themselves (`sock_ops`): the kernel leaves out the programs of a tracepoint where a packet that comes in
//! interrupts a process that is calling bpf(2), and says so nowhere. What no connection tells of is left to tracepoints.
//!
//! All of these may run in a process that a packet interrupts, so every addition is atomic: containers have one entry each,
//! which all CPUs share, for such events are few beside packets.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{bpf_ktime_get_ns, bpf_skc_to_tcp_sock},
    programs::{BtfTracePointContext, SockOpsContext},
};
use dtm_common::{
    drops::OWNER_NONE,
    errors::ERROR_HANDSHAKES_FULL,
    tcp::{BUCKETS, Histogram, TcpCounters, TcpFailure, TcpRole, bucket},
};

use crate::{
    counters::{Add as _, Atomic},
    maps::{HANDSHAKES, SOCK_ERR, TCP, TCP_EPOCH, TCP_RETRANS, TCP_RUNNING, TCP_SRTT, WANTED, count_error},
    skb::field,
    sockets::{is_outside, owner_of},
};

// `include/net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;

// `include/uapi/asm-generic/errno.h`, of every architecture that dtm runs on.
const ENETUNREACH: i32 = 101;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

// `BPF_SOCK_OPS_*_CB` in `include/uapi/linux/bpf.h`.
const CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const RETRANSMIT: u32 = 9;
const STATE: u32 = 10;
const ROUND_TRIP: u32 = 12;

/// Whether it is this program that counts: a newer dtm's takes over in one moment.
#[inline(always)]
fn is_running() -> bool {
    // SAFETY: the verifier has checked the pointer.
    TCP_RUNNING
        .get_ptr(0)
        .is_some_and(|epoch| unsafe { *epoch } == TCP_EPOCH.load())
}

/// The counters of the container that has a socket.
///
/// # Safety
///
/// `sk` must be a `sock` that the verifier knows to be one, or at least how it begins.
#[inline(always)]
unsafe fn counters_of(sk: *const u8) -> Option<*mut TcpCounters> {
    if !is_running() {
        return None;
    }
    let owner = owner_of(sk);
    if owner == OWNER_NONE {
        return None;
    }
    TCP.get_ptr_mut(owner)
}

/// Adds to a counter.
///
/// # Safety
///
/// As of [`Add::add`](crate::counters::Add::add).
#[inline(always)]
unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { Atomic::add(counter, value) }
}

/// Adds one time.
///
/// # Safety
///
/// `histogram` must be valid for reads and writes.
#[inline(always)]
unsafe fn sample(histogram: *mut Histogram, microseconds: u32) {
    // SAFETY: the caller's promise, and the bucket is one of them.
    unsafe {
        let buckets = (&raw mut (*histogram).buckets).cast::<u64>();
        add(buckets.add(bucket(microseconds) % BUCKETS), 1);
        add(&raw mut (*histogram).sum, u64::from(microseconds));
    }
}

/// A SYN-ACK that is sent again.
#[inline(always)]
pub(crate) fn retransmitted_synack(ctx: &BtfTracePointContext) {
    // SAFETY: the tracepoint has a socket, the one that listens.
    if let Some(counters) = unsafe { counters_of(ctx.arg(0)) } {
        // SAFETY: the verifier has checked the pointer.
        unsafe { add(&raw mut (*counters).retransmitted, 1) }
    }
}

/// A reset that a socket receives.
#[inline(always)]
pub(crate) fn reset_received(ctx: &BtfTracePointContext) {
    let sk = ctx.arg::<*const u8>(0);
    if is_outside(sk) {
        return;
    }
    // SAFETY: the tracepoint has a socket.
    if let Some(counters) = unsafe { counters_of(sk) } {
        // SAFETY: the verifier has checked the pointer.
        unsafe { add(&raw mut (*counters).resets_received, 1) }
    }
}

/// A reset that is sent, of which there may be a socket.
#[inline(always)]
pub(crate) fn reset_sent(ctx: &BtfTracePointContext) {
    let sk = ctx.arg::<*const u8>(0);
    if sk.is_null() || is_outside(sk) {
        return;
    }
    // SAFETY: it is how every socket begins; one that is no more has no owner.
    if let Some(counters) = unsafe { counters_of(sk) } {
        // SAFETY: the verifier has checked the pointer.
        unsafe { add(&raw mut (*counters).resets_sent, 1) }
    }
}

/// Whether a connection in this state is one of the kernel's `CurrEstab`.
#[inline(always)]
pub(crate) fn is_current(state: u8) -> bool {
    state == ESTABLISHED || state == CLOSE_WAIT
}

/// A handshake has come to its end, or to nothing.
#[inline(always)]
fn handshake_over(sk: *const u8, after: u8, before: u8, counters: *mut TcpCounters) {
    let key = sk as u64;
    // SAFETY: the verifier has checked the pointer.
    let begun = HANDSHAKES.get_ptr(key).map(|begun| unsafe { *begun });
    if begun.is_some() {
        // That somebody else has removed it is as good.
        let _gone = HANDSHAKES.remove(key);
    }
    if after == ESTABLISHED {
        let role = if begun.is_some() || before == SYN_SENT {
            TcpRole::Client
        } else {
            TcpRole::Server
        };
        let took = match (role, begun) {
            (TcpRole::Client, Some(begun)) => {
                // SAFETY: a helper without arguments.
                let now = unsafe { bpf_ktime_get_ns() };
                Some(((now - begun) / 1_000) as u32)
            }
            // Begun before this program was there.
            (TcpRole::Client, None) => None,
            (TcpRole::Server, _) => since_synack(sk),
        };
        // SAFETY: the verifier has checked the pointer.
        unsafe {
            match role {
                TcpRole::Client => add(&raw mut (*counters).opened[0], 1),
                TcpRole::Server => add(&raw mut (*counters).opened[1], 1),
            }
            if let Some(took) = took {
                let connect = (&raw mut (*counters).connect).cast::<Histogram>();
                sample(connect.add(role as usize), took);
            }
        }
    } else if after == CLOSE && (before == SYN_SENT || begun.is_some()) {
        // SAFETY: a whole socket: it was about to have a connection.
        let failure = match unsafe { field::<i32>(sk, SOCK_ERR.load()) } {
            ECONNREFUSED => TcpFailure::Refused,
            ETIMEDOUT => TcpFailure::Timeout,
            EHOSTUNREACH | ENETUNREACH => TcpFailure::Unreachable,
            _ => TcpFailure::Other,
        };
        // SAFETY: the verifier has checked the pointer, and there are as many.
        unsafe {
            let failed = (&raw mut (*counters).failed).cast::<u64>();
            add(failed.add(failure as usize), 1);
        }
    }
}

/// Microseconds from the SYN-ACK of a new connection to the answer to it: the kernel's first measure of its round trip. It
/// has none where the SYN-ACK was sent more than once.
#[inline(always)]
fn since_synack(sk: *const u8) -> Option<u32> {
    // SAFETY: the verifier knows that it is a `tcp_sock`, and checks.
    unsafe {
        let again: u32 = field(sk, TCP_RETRANS.load());
        let smoothed: u32 = field(sk, TCP_SRTT.load());
        (again == 0 && smoothed != 0).then_some(smoothed >> 3)
    }
}

/// What a connection tells of itself. It is asked to when it begins; what is asked for already stays.
#[inline(always)]
pub(crate) fn operation(ctx: &SockOpsContext) {
    let operation = ctx.op();
    if !matches!(
        operation,
        CONNECT | ACTIVE_ESTABLISHED | PASSIVE_ESTABLISHED | RETRANSMIT | STATE | ROUND_TRIP
    ) || !is_running()
    {
        return;
    }
    if matches!(operation, CONNECT | ACTIVE_ESTABLISHED | PASSIVE_ESTABLISHED) {
        // Only what is no connection any more refuses it.
        let _refused = ctx.set_cb_flags((ctx.cb_flags() | WANTED.load()).cast_signed());
    }
    if matches!(operation, ACTIVE_ESTABLISHED | PASSIVE_ESTABLISHED) {
        return;
    }
    // SAFETY: the context is valid for the whole run of the program.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    // SAFETY: the helper takes a socket.
    let sk = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
    if sk.is_null() {
        return;
    }
    let sk = sk.cast::<u8>().cast_const();
    // SAFETY: the verifier knows that it is one.
    let Some(counters) = (unsafe { counters_of(sk) }) else {
        return;
    };
    match operation {
        CONNECT => {
            // SAFETY: a helper without arguments.
            let now = unsafe { bpf_ktime_get_ns() };
            if HANDSHAKES.insert(sk as u64, now, u64::from(BPF_ANY)).is_err() {
                count_error(ERROR_HANDSHAKES_FULL);
            }
        }
        // SAFETY: the verifier has checked the pointer; the second argument is how many segments.
        RETRANSMIT => unsafe { add(&raw mut (*counters).retransmitted, u64::from(ctx.arg(1))) },
        STATE => state_changed(sk, ctx.arg(0) as u8, ctx.arg(1) as u8, counters),
        ROUND_TRIP => {
            // SAFETY: the context is valid for the whole run of the program.
            let smoothed = unsafe { (*ctx.ops).srtt_us };
            if smoothed != 0 {
                // SAFETY: the verifier has checked the pointer.
                unsafe { sample(&raw mut (*counters).rtt, smoothed >> 3) }
            }
        }
        _ => {}
    }
}

/// A connection comes into another state.
#[inline(always)]
fn state_changed(sk: *const u8, before: u8, after: u8, counters: *mut TcpCounters) {
    // Both sides may have asked at once.
    if before == SYN_SENT && after != SYN_RECV || before == SYN_RECV {
        handshake_over(sk, after, before, counters);
    }
    let (was, is) = (is_current(before), is_current(after));
    // SAFETY: the verifier has checked the pointer.
    unsafe {
        if is && !was {
            add(&raw mut (*counters).current, 1);
        } else if was && !is {
            add(&raw mut (*counters).current, u64::MAX);
        }
    }
}
