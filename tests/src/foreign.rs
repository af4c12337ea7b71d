//! Somebody else's programs: each counts its runs and gives the verdict it was made with. Loaded and attached by bpf(2)
//! itself, as dtm's loader has no part in them.
#![expect(unsafe_code, reason = "raw system calls")]

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use xtask::host::{Host, Network};

/// Numbers of `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_EGRESS: u32 = 1;
const BPF_XDP: u32 = 37;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;

/// `TC_ACT_UNSPEC`, `TCX_NEXT`: whoever comes next decides.
pub const NEXT: i32 = -1;
/// `TC_ACT_OK`, `TCX_PASS`: the packet goes on, no other program sees it.
pub const PASS: i32 = 0;
/// `TC_ACT_SHOT`, `TCX_DROP`: the packet is thrown away.
pub const DROP: i32 = 2;
/// `XDP_PASS`.
pub const XDP_PASS: i32 = 2;
/// What a program of a control group returns to let a packet pass.
const CGROUP_PASS: i32 = 1;

/// One side of an interface, by its number among the kernel's TCX hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What comes in there.
    Ingress = 46,
    /// What goes out there.
    Egress = 47,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As tc calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Where among the other programs of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before all.
    First,
    /// After all.
    Last,
}

/// A program, and the map it counts in.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    runs: OwnedFd,
}

/// Detaches its program when dropped.
#[derive(Debug)]
pub struct ForeignLink {
    _fd: OwnedFd,
}

/// Takes its program off a control group when dropped.
#[derive(Debug)]
pub struct Exclusive {
    program: Foreign,
    group: File,
}

impl Exclusive {
    /// Attaches a program to what the processes in `group` and below send, in the way that suffers no other one in any
    /// group below: without flags, as systemd's `IPAccounting=` does it.
    pub fn attach(group: &Path) -> Result<Self> {
        let program = Foreign::load(BPF_PROG_TYPE_CGROUP_SKB, CGROUP_PASS)?;
        let group = File::open(group).with_context(|| format!("open {}", group.display()))?;
        let exclusive = Self { program, group };
        exclusive
            .call(BPF_PROG_ATTACH)
            .context("attach a program to a control group")?;
        Ok(exclusive)
    }

    /// How often it has run.
    pub fn runs(&self) -> Result<u64> {
        self.program.runs()
    }

    fn call(&self, command: libc::c_long) -> io::Result<()> {
        let Self { program, group } = self;
        let program = program.program.as_raw_fd().cast_unsigned();
        // target_fd, attach_bpf_fd, attach_type, attach_flags, replace_bpf_fd
        let mut attributes = [
            group.as_raw_fd().cast_unsigned(),
            program,
            BPF_CGROUP_INET_EGRESS,
            0,
            0,
        ];
        bpf(command, &mut attributes).map(drop)
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Err(error) = self.call(BPF_PROG_DETACH) {
            eprintln!("detach a program from a control group: {error}");
        }
    }
}

impl Foreign {
    /// A classifier with this verdict.
    pub fn classifier(verdict: i32) -> Result<Self> {
        Self::load(BPF_PROG_TYPE_SCHED_CLS, verdict)
    }

    /// An XDP program with this verdict.
    pub fn xdp(verdict: i32) -> Result<Self> {
        Self::load(BPF_PROG_TYPE_XDP, verdict)
    }

    fn load(kind: u32, verdict: i32) -> Result<Self> {
        // map_type, key_size, value_size, max_entries
        let runs = descriptor(BPF_MAP_CREATE, &mut [BPF_MAP_TYPE_ARRAY, 4, 8, 1]).context("create a map")?;
        let instruction = |code: u64, registers: u64, immediate: i32| {
            code | registers << 8 | u64::from(immediate.cast_unsigned()) << 32
        };
        let program = [
            // r1 = the address of the map's value, in two instructions
            instruction(0x18, 0x21, runs.as_raw_fd()),
            0,
            // r2 = 1
            instruction(0xb7, 0x02, 1),
            // lock *(u64 *)(r1 + 0) += r2
            instruction(0xdb, 0x21, 0),
            // r0 = verdict
            instruction(0xb7, 0x00, verdict),
            // exit
            instruction(0x95, 0, 0),
        ];
        let license = c"GPL";
        let [low, high] = halves(program.as_ptr() as u64);
        let [license_low, license_high] = halves(license.as_ptr() as u64);
        let mut attributes = [0_u32; 16];
        attributes[..6].copy_from_slice(&[kind, program.len() as u32, low, high, license_low, license_high]);
        // prog_name
        attributes[12..14].copy_from_slice(&[u32::from_ne_bytes(*b"fore"), u32::from_ne_bytes(*b"ign\0")]);
        let program = descriptor(BPF_PROG_LOAD, &mut attributes).context("load a program")?;
        Ok(Self { program, runs })
    }

    /// How often it has run.
    pub fn runs(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let [key_low, key_high] = halves(std::ptr::from_ref(&key) as u64);
        let [value_low, value_high] = halves(std::ptr::from_mut(&mut value) as u64);
        let mut attributes = [
            self.runs.as_raw_fd().cast_unsigned(),
            0,
            key_low,
            key_high,
            value_low,
            value_high,
            0,
            0,
        ];
        bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes).context("read a map")?;
        Ok(value)
    }

    /// Pins it in the host's bpffs and gives the path there, for tc.
    pub fn pin(&self, host: &Host, name: &str) -> Result<String> {
        let path = format!("/sys/fs/bpf/{name}");
        let outside = CString::new(host.outside(&path).as_os_str().as_bytes())?;
        let [low, high] = halves(outside.as_ptr() as u64);
        bpf(
            BPF_OBJ_PIN,
            &mut [low, high, self.program.as_raw_fd().cast_unsigned(), 0],
        )
        .with_context(|| format!("pin a program at {path}"))?;
        Ok(path)
    }

    /// Attaches it by TCX.
    pub fn attach_tcx(
        &self,
        network: &Network,
        ifindex: u32,
        side: Side,
        position: Position,
    ) -> Result<ForeignLink> {
        let flags = match position {
            Position::First => BPF_F_BEFORE,
            Position::Last => BPF_F_AFTER,
        };
        self.link(network, ifindex, side as u32, flags)
    }

    /// Attaches it as the XDP program of an interface.
    pub fn attach_xdp(&self, network: &Network, ifindex: u32) -> Result<ForeignLink> {
        self.link(network, ifindex, BPF_XDP, 0)
    }

    fn link(&self, network: &Network, ifindex: u32, kind: u32, flags: u32) -> Result<ForeignLink> {
        let program = self.program.as_raw_fd().cast_unsigned();
        // prog_fd, target_ifindex, attach_type, flags, and nothing it is relative to
        let mut attributes = [program, ifindex, kind, flags, 0, 0, 0, 0];
        let fd = network.enter(|| descriptor(BPF_LINK_CREATE, &mut attributes))?;
        Ok(ForeignLink {
            _fd: fd.context("attach a program")?,
        })
    }
}

/// The links of the programs at a TCX hook, in the order in which these run.
pub fn tcx_links(network: &Network, ifindex: u32, side: Side) -> Result<Vec<u32>> {
    let (mut programs, mut links) = ([0_u32; 64], [0_u32; 64]);
    let [programs_low, programs_high] = halves(programs.as_mut_ptr() as u64);
    let [links_low, links_high] = halves(links.as_mut_ptr() as u64);
    let mut attributes = [0_u32; 16];
    attributes[..2].copy_from_slice(&[ifindex, side as u32]);
    // prog_ids and how many there is room for
    attributes[4..7].copy_from_slice(&[programs_low, programs_high, programs.len() as u32]);
    // link_ids
    attributes[10..12].copy_from_slice(&[links_low, links_high]);
    match network.enter(|| bpf(BPF_PROG_QUERY, &mut attributes))? {
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        result => result.context("ask for the programs of a hook")?,
    };
    Ok(links[..attributes[6] as usize].to_vec())
}

/// Detaches somebody's link by force: it lives on, without its program.
pub fn detach_link(id: u32) -> Result<()> {
    let link = descriptor(BPF_LINK_GET_FD_BY_ID, &mut [id, 0, 0]).context("open a link")?;
    let mut attributes = [link.as_raw_fd().cast_unsigned()];
    bpf(BPF_LINK_DETACH, &mut attributes)
        .context("detach a link")
        .map(drop)
}

fn descriptor(command: libc::c_long, attributes: &mut [u32]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Calls bpf(2) with `union bpf_attr` as words. Every pointer in it is to a live value of the caller's.
fn bpf(command: libc::c_long, attributes: &mut [u32]) -> io::Result<libc::c_long> {
    // SAFETY: the attributes live through the call and their size is told; callers keep what they point to alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn halves(address: u64) -> [u32; 2] {
    let bytes = address.to_ne_bytes();
    let half = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [half(0), half(4)]
}
