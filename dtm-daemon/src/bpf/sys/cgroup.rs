//! Links to control groups, and whose programs are at one.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use dtm_common::traffic::Direction;

use super::{BPF_PROG_QUERY, LinkCreate, ProgQuery, bpf, info};
use crate::bpf::{
    held::Held,
    side::{Hook, Side},
};

/// `BPF_CGROUP_INET_INGRESS` and `BPF_CGROUP_INET_EGRESS` of `enum bpf_attach_type`.
const BPF_CGROUP_INET_INGRESS: u32 = 0;
const BPF_CGROUP_INET_EGRESS: u32 = 1;

/// `BPF_CGROUP_SOCK_OPS`.
const BPF_CGROUP_SOCK_OPS: u32 = 3;

/// The most programs at one hook of a group, `BPF_CGROUP_MAX_PROGS`.
const PROGRAMS_MAX: usize = 64;

/// A program attached to one direction of a control group's sockets, those of the groups below it included. Dropping it
/// detaches the program.
#[derive(Debug)]
pub struct CgroupLink(pub(in crate::bpf) Held);

impl CgroupLink {
    /// Attaches `program`, one of [`Template::cgroup`](crate::bpf::Template::cgroup)'s, to one direction of the group
    /// whose directory is open as `cgroup`. Others' programs stay, and all of them run.
    ///
    /// # Errors
    ///
    /// - `EPERM` where the group or one above it has a program that was attached to be the only one (flags 0, or
    ///   `BPF_F_ALLOW_OVERRIDE` at the group itself): nothing can be counted here.
    /// - `EBADF` where `cgroup` is no directory of a cgroup v2 hierarchy.
    /// - `ENOENT` where the group has been removed.
    /// - `E2BIG` where it has 64 programs already.
    /// - `EINVAL` where the kernel has no links to groups. That the program is for this direction it does not check.
    ///
    /// # Minimum kernel version
    ///
    /// 5.7.
    pub fn create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, direction: Direction) -> io::Result<Self> {
        let attributes = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target: cgroup.as_raw_fd().cast_unsigned(),
            attach_type: attach_type(direction),
            // A link is always one of several (`BPF_F_ALLOW_MULTI`); saying so is an error.
            flags: 0,
            ..LinkCreate::default()
        };
        Held::new(attributes.create()?).map(Self)
    }

    /// One that another process has left under this name.
    pub(in crate::bpf) fn open(path: PathBuf) -> io::Result<Self> {
        Held::open(path).map(Self)
    }

    /// The kernel's number for the link.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it still holds its program at its group: not once the group was removed, or somebody detached it.
    ///
    /// Costs a system call, without a lock that others hold for long.
    pub fn is_attached(&self) -> io::Result<bool> {
        Ok(info(self.0.as_fd())?.cgroup_id != 0)
    }
}

/// Attaches a program to what the sockets of a group, and of those below it, tell of. Others' programs stay, and all of
/// them run.
///
/// # Errors
///
/// As of [`CgroupLink::create`].
///
/// # Minimum kernel version
///
/// 5.7.
pub(in crate::bpf) fn attach_sock_ops(program: BorrowedFd<'_>, group: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target: group.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_SOCK_OPS,
        ..LinkCreate::default()
    };
    attributes.create()
}

/// The kernel's numbers of the programs at one direction of a group, in the order in which they run; without those of
/// the groups above it, which run after them.
///
/// # Errors
///
/// `EBADF` where `cgroup` is no directory of a cgroup v2 hierarchy, `ENOENT` where the group has been removed.
pub fn cgroup_programs(cgroup: BorrowedFd<'_>, direction: Direction) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; PROGRAMS_MAX];
    let mut attributes = ProgQuery {
        target: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: attach_type(direction),
        prog_ids: programs.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        ..ProgQuery::default()
    };
    // SAFETY: the array lives through the call and holds as many numbers as are told.
    unsafe { bpf(BPF_PROG_QUERY, &mut attributes) }?;
    Ok(programs.into_iter().take(attributes.count as usize).collect())
}

/// A group's sockets are the container's own.
pub(super) fn attach_type(direction: Direction) -> u32 {
    match Side::OwnDevice.hook(direction) {
        Hook::Ingress => BPF_CGROUP_INET_INGRESS,
        Hook::Egress => BPF_CGROUP_INET_EGRESS,
    }
}
