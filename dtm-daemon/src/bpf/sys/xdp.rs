//! XDP links.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::PathBuf,
};

use super::{LinkCreate, info};
use crate::bpf::held::Held;

/// `BPF_XDP` of `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`, `include/uapi/linux/if_link.h`.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// In the driver, before the kernel has made anything of a frame.
    Native,
    /// In the kernel's stack, at every driver's frames: after GRO, before everything else.
    Generic,
}

impl XdpMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The `mode` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn flags(self) -> u32 {
        match self {
            Self::Native => XDP_FLAGS_DRV_MODE,
            Self::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

/// An XDP program attached to an interface. Dropping it detaches the program.
#[derive(Debug)]
pub struct XdpLink(pub(in crate::bpf) Held);

impl XdpLink {
    /// Attaches `program` to an interface of the calling thread's network namespace, which has no other: a link takes nobody's
    /// place, and nobody takes a link's.
    ///
    /// # Errors
    ///
    /// - `EBUSY` where another program is there, `EEXIST` where it is there in the other mode.
    /// - `EOPNOTSUPP` where the driver knows no XDP; whatever a driver says that cannot take the program as it is set up.
    /// - `ENODEV`, before 6.0 `EINVAL`, where the interface is gone.
    /// - `EINVAL` where the kernel has no such links.
    ///
    /// # Minimum kernel version
    ///
    /// 5.9.
    pub fn create(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> io::Result<Self> {
        let attributes = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target: ifindex,
            attach_type: BPF_XDP,
            flags: mode.flags(),
            ..LinkCreate::default()
        };
        Held::new(attributes.create()?).map(Self)
    }

    /// One that another process has left under this name.
    pub(in crate::bpf) fn open(path: PathBuf) -> io::Result<Self> {
        Held::open(path).map(Self)
    }

    /// The index of the link's interface; none once that is gone, or somebody detached the link.
    ///
    /// Costs a system call that waits for RTNL.
    pub fn ifindex(&self) -> io::Result<Option<u32>> {
        Ok(Some(info(self.0.as_fd())?.ifindex()).filter(|ifindex| *ifindex != 0))
    }
}
