//! dtm's kernel side: entry points only. Each one counts and lets the packet pass, whatever happens.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    unsafe_code,
    reason = "the kernel's memory is raw pointers; each access says what makes it sound"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros hand their contexts over by value"
)]
#![expect(
    clippy::inline_always,
    reason = "a call costs as much as what most of these functions do"
)]

mod attribution;
mod cgroup_events;
mod cgroup_skb;
mod classify;
mod counters;
mod drops;
mod established;
mod flows;
mod maps;
mod peers;
mod skb;
mod sockets;
mod tcp;
mod uplink;
mod views;
mod xdp;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{btf_tracepoint, cgroup_skb, classifier, raw_tracepoint, sock_ops, xdp},
    programs::{
        BtfTracePointContext, RawTracePointContext, SkBuffContext, SockOpsContext, TcContext, XdpContext,
    },
};
use dtm_common::{
    cgroups::{CGROUP_MADE, CGROUP_REMOVED},
    traffic::Direction,
};

use crate::maps::DROP_COUNTER;

/// A cgroup's program has no others to leave the packet to: it is let pass.
const PASS: i32 = 1;

/// Counts what the container sends: attached to the host end's ingress, or to its own device's egress.
#[classifier]
fn dtm_transmit(ctx: TcContext) -> i32 {
    classify::count(&ctx, Direction::Transmit);
    TC_ACT_UNSPEC
}

/// Counts what the container is offered: attached to the host end's egress, or to its own device's ingress.
#[classifier]
fn dtm_receive(ctx: TcContext) -> i32 {
    classify::count(&ctx, Direction::Receive);
    TC_ACT_UNSPEC
}

/// Counts what the sockets of a control group send.
#[cgroup_skb(egress)]
fn dtm_cgroup_transmit(ctx: SkBuffContext) -> i32 {
    cgroup_skb::count(&ctx, Direction::Transmit);
    PASS
}

/// Counts what the sockets of a control group receive.
#[cgroup_skb(ingress)]
fn dtm_cgroup_receive(ctx: SkBuffContext) -> i32 {
    cgroup_skb::count(&ctx, Direction::Receive);
    PASS
}

/// Counts what arrives at an uplink. Attached only where the operator names one.
#[xdp]
fn dtm_uplink(ctx: XdpContext) -> u32 {
    uplink::count(&ctx);
    xdp_action::XDP_PASS
}

/// Tells of a control group that was made.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn dtm_cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    cgroup_events::tell(&ctx, CGROUP_MADE);
    0
}

/// Tells of a control group that was removed.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
fn dtm_cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    cgroup_events::tell(&ctx, CGROUP_REMOVED);
    0
}

/// Has what the kernel throws away counted. Attached once and for all: a tracepoint's link cannot be given another
/// program, so a newer dtm puts its counting into the map instead.
#[btf_tracepoint(function = "kfree_skb")]
fn dtm_kfree_skb(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: nothing here has to be dropped.
    unsafe { DROP_COUNTER.tail_call(&ctx, 0) };
    0
}

/// Counts what the kernel throws away, by owner and reason.
#[btf_tracepoint(function = "kfree_skb")]
fn dtm_count_drop(ctx: BtfTracePointContext) -> i32 {
    drops::count(&ctx);
    0
}

/// Counts SYN-ACKs that are sent again.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn dtm_tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    tcp::retransmitted_synack(&ctx);
    0
}

/// Counts resets that sockets on the host's network receive.
#[btf_tracepoint(function = "tcp_receive_reset")]
fn dtm_tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    tcp::reset_received(&ctx);
    0
}

/// Counts resets that are sent on the host's network.
#[btf_tracepoint(function = "tcp_send_reset")]
fn dtm_tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    tcp::reset_sent(&ctx);
    0
}

/// Visits the TCP sockets of the reader's network namespace.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn dtm_tcp_sockets(ctx: *mut established::TcpIteration) -> i32 {
    established::visit(ctx);
    0
}

/// Counts what connections tell of themselves.
#[sock_ops]
fn dtm_sock_ops(ctx: SockOpsContext) -> u32 {
    tcp::operation(&ctx);
    // Whoever answers the kernel's questions answers them: the reply is left as it is.
    1
}

/// The helpers used here are for programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here panics; the language wants a handler all the same.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
