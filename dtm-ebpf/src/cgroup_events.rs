//! Tells the daemon of control groups that are made and removed, where their name can be a container's.
//!
//! A container of the host's network has no interface whose birth netlink would tell of; its group is made before its
//! first process runs.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, programs::RawTracePointContext};
use dtm_common::cgroups::{CGROUP_PATH_BYTES, CONTAINER_ID_LENGTH, CgroupRecord};

use crate::{
    maps::{
        CGROUP_EVENTS, CGROUP_EVENTS_LOST, CGROUP_NODE, CGROUP_ROOT, NODE_NAME, ROOT_HIERARCHY, count_one,
    },
    skb::read_kernel,
};

/// Writes a record of what happened to the tracepoint's group (`cgroup`, `path`), or counts it as lost.
#[inline(always)]
pub(crate) fn tell(ctx: &RawTracePointContext, kind: u32) {
    if CGROUP_ROOT.load() != u32::MAX && !is_worth_telling(ctx.arg(0)) {
        return;
    }
    let Some(mut entry) = CGROUP_EVENTS.reserve::<CgroupRecord>(0) else {
        count_one(&CGROUP_EVENTS_LOST, 0);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the record is ours until it is submitted; the helper writes at most all of the path.
    unsafe {
        let length = bpf_probe_read_kernel_str(
            (&raw mut (*record).path).cast(),
            CGROUP_PATH_BYTES as u32,
            ctx.arg(1),
        );
        (*record).kind = kind;
        (*record).length = u32::try_from(length).unwrap_or(0);
    }
    entry.submit(0);
}

/// Whether the group is of the hierarchy of cgroup v2, with a name long enough for a container's id.
///
/// What cannot be read is worth telling: the daemon looks again.
#[inline(always)]
fn is_worth_telling(group: *const u8) -> bool {
    // SAFETY: an address has no invalid pattern, and the helper checks it; so below.
    let pointer = |base: *const u8, offset: u32| unsafe {
        read_kernel::<*const u8>(base.wrapping_add(offset as usize))
    };
    let hierarchy = pointer(group, CGROUP_ROOT.load()).and_then(|root| {
        // SAFETY: a number has no invalid pattern.
        unsafe { read_kernel::<u32>(root.wrapping_add(ROOT_HIERARCHY.load() as usize)) }
    });
    // The hierarchy of v2 is the kernel's first.
    if !matches!(hierarchy, None | Some(0)) {
        return false;
    }
    let Some(name) = pointer(group, CGROUP_NODE.load()).and_then(|node| pointer(node, NODE_NAME.load()))
    else {
        return true;
    };
    let mut start = MaybeUninit::<[u8; CONTAINER_ID_LENGTH + 1]>::uninit();
    // SAFETY: the helper writes no more than there is room for.
    let read = unsafe {
        bpf_probe_read_kernel_str(
            start.as_mut_ptr().cast(),
            (CONTAINER_ID_LENGTH + 1) as u32,
            name.cast(),
        )
    };
    !matches!(usize::try_from(read), Ok(0..=CONTAINER_ID_LENGTH))
}
