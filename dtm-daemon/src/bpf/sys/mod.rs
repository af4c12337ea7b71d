//! The bpf(2) calls no crate wraps: links and programs by interface index and by control group, programs loaded over
//! maps that are there already, maps that are not in the object, objects that outlive the process, and reading a per-CPU hash in batches.
#![expect(unsafe_code, reason = "raw system calls")]

mod batch;
mod cgroup;
mod maps;
mod object;
mod program;
mod tcx;
mod xdp;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

pub(super) use batch::per_cpu_hash_entries;
pub(super) use cgroup::attach_sock_ops;
pub use cgroup::{CgroupLink, cgroup_programs};
pub(super) use maps::{constants, described_memory, inner_map, memory, set_inner_map};
pub(super) use object::{
    MapShape, attach_iterator, attach_tracepoint, detach_link, iterate, map_shape, open, pin, program_of,
    recursion_misses, update_link,
};
pub(super) use program::{ProgramType, load};
pub use tcx::{TcxLink, TcxProbe, tcx_is_supported};
pub(super) use tcx::{TcxProgram, tcx_programs};
pub use xdp::{XdpLink, XdpMode};

/// Numbers of `enum bpf_cmd`, `include/uapi/linux/bpf.h`, that more than one file needs.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;

/// `union bpf_attr` as `BPF_LINK_CREATE` reads it for TCX and, as far as `flags`, for control groups and XDP.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    /// An interface's index, or a descriptor.
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    padding: u32,
    expected_revision: u64,
}

impl LinkCreate {
    /// Makes the link.
    fn create(mut self) -> io::Result<OwnedFd> {
        // SAFETY: no pointers in these attributes.
        unsafe { made(BPF_LINK_CREATE, &mut self) }
    }
}

/// Calls bpf(2) for a new descriptor.
///
/// # Safety
///
/// As of [`bpf`], with a command that answers with a descriptor.
unsafe fn made<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct ObjectInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// How `struct bpf_link_info` and `struct bpf_prog_info` begin, `include/uapi/linux/bpf.h`; the rest is a link's.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    /// Of a link to a control group: the group's number, 0 once the link holds nothing any more. Of a TCX or XDP link its
    /// first half is the interface's index.
    cgroup_id: u64,
}

impl Info {
    fn ifindex(&self) -> u32 {
        let [a, b, c, d, ..] = self.cgroup_id.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// `union bpf_attr` as `BPF_PROG_QUERY` reads it.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    /// An interface's index, or a descriptor.
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Calls bpf(2) with an attribute of its own type.
///
/// # Safety
///
/// Every pointer in `attributes` must be valid for what `command` does with it.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a live value of its own size; what it points to is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// What the kernel tells of the program or link behind `fd`.
fn info(fd: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = Info::default();
    let mut attributes = ObjectInfo {
        fd: fd.as_raw_fd().cast_unsigned(),
        info_len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` lives through the call and its size is told.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

/// The kernel's number for the program or link behind `fd`.
pub(super) fn object_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info(fd)?.id)
}
