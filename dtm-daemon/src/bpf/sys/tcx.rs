//! TCX links, and who is at a TCX hook.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use super::{BPF_PROG_QUERY, LinkCreate, ProgQuery, bpf, info};
use crate::bpf::{held::Held, side::Hook};

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// With no program named beside it: before all others, the head.
const BPF_F_BEFORE: u32 = 1 << 3;

/// The most programs at one hook, `BPF_MPROG_MAX`.
const PROGRAMS_MAX: usize = 64;

/// A program attached to one hook of an interface. Dropping it detaches the program.
#[derive(Debug)]
pub struct TcxLink(pub(in crate::bpf) Held);

/// A program that runs at a TCX hook, and the link that holds it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bpf) struct TcxProgram {
    pub(in crate::bpf) program: u32,
    /// 0 where it was attached without a link.
    pub(in crate::bpf) link: u32,
}

impl TcxLink {
    /// Attaches `program` before every other TCX program at that hook of an interface of the calling thread's network
    /// namespace. The link stays with the interface when that moves to another namespace, and goes with it.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the kernel has no TCX, `ENODEV` where the interface is gone.
    ///
    /// # Minimum kernel version
    ///
    /// 6.6.
    pub fn create(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<Self> {
        let attributes = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target: ifindex,
            attach_type: attach_type(hook),
            flags: BPF_F_BEFORE,
            ..LinkCreate::default()
        };
        Held::new(attributes.create()?).map(Self)
    }

    /// One that another process has left under this name.
    pub(in crate::bpf) fn open(path: PathBuf) -> io::Result<Self> {
        Held::open(path).map(Self)
    }

    /// The kernel's number for the link.
    pub(in crate::bpf) fn id(&self) -> u32 {
        self.0.id()
    }

    /// What another thread can ask about it; the link stays while this is there.
    pub fn probe(&self) -> io::Result<TcxProbe> {
        Ok(TcxProbe(self.0.as_fd().try_clone_to_owned()?))
    }
}

/// Asks where a link is.
#[derive(Debug)]
pub struct TcxProbe(OwnedFd);

impl TcxProbe {
    /// The index of the link's interface, in whatever namespace that is; none once the interface is gone, or somebody
    /// detached the link.
    ///
    /// Costs a system call that waits for RTNL.
    pub fn ifindex(&self) -> io::Result<Option<u32>> {
        Ok(Some(info(self.0.as_fd())?.ifindex()).filter(|ifindex| *ifindex != 0))
    }
}

/// The programs of TCX at one hook of an interface of the calling thread's network namespace, in the order in which
/// they run.
///
/// # Errors
///
/// `ENODEV` where the interface is gone, `EINVAL` where the kernel has no TCX.
pub(in crate::bpf) fn tcx_programs(ifindex: u32, hook: Hook) -> io::Result<Vec<TcxProgram>> {
    let (mut programs, mut links) = ([0_u32; PROGRAMS_MAX], [0_u32; PROGRAMS_MAX]);
    let mut attributes = ProgQuery {
        target: ifindex,
        attach_type: attach_type(hook),
        prog_ids: programs.as_mut_ptr() as u64,
        link_ids: links.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        ..ProgQuery::default()
    };
    // SAFETY: both arrays live through the call and hold as many numbers as are told.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attributes) } {
        Ok(_) => {}
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let found = programs.into_iter().zip(links).take(attributes.count as usize);
    Ok(found
        .map(|(program, link)| TcxProgram { program, link })
        .collect())
}

fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => BPF_TCX_INGRESS,
        Hook::Egress => BPF_TCX_EGRESS,
    }
}

/// Whether the kernel has TCX, found by asking for the programs at the loopback interface: nothing is attached.
pub fn tcx_is_supported() -> bool {
    let mut attributes = ProgQuery {
        target: 1,
        attach_type: BPF_TCX_INGRESS,
        ..ProgQuery::default()
    };
    // SAFETY: the only pointers are null, with a count of 0.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attributes) } {
        Ok(_) => true,
        // No program is attached there; a kernel without TCX does not know the attach type.
        Err(error) => error.raw_os_error() == Some(libc::ENOENT),
    }
}
