//! dtm's kernel side: entry points only. Each one counts and lets the packet pass, whatever happens.
#![no_std]
#![no_main]
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

mod classify;
mod drops;
mod maps;
mod skb;

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    macros::{btf_tracepoint, classifier},
    programs::{BtfTracePointContext, TcContext},
};
use dtm_common::traffic::Direction;

/// Counts what the container sends: attached to the host end's ingress.
#[classifier]
fn dtm_transmit(ctx: TcContext) -> i32 {
    classify::count(&ctx, Direction::Transmit);
    TC_ACT_UNSPEC
}

/// Counts what the container is offered: attached to the host end's egress.
#[classifier]
fn dtm_receive(ctx: TcContext) -> i32 {
    classify::count(&ctx, Direction::Receive);
    TC_ACT_UNSPEC
}

/// Counts what the kernel throws away, by owner and reason.
#[btf_tracepoint(function = "kfree_skb")]
fn dtm_kfree_skb(ctx: BtfTracePointContext) -> i32 {
    drops::count(&ctx);
    0
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
