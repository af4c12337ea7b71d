//! The bpf(2) calls no crate wraps: TCX links and programs by interface index, and reading a per-CPU hash in batches.
#![expect(unsafe_code, reason = "raw system calls")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use dtm_common::traffic::Direction;

/// Numbers of `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_CREATE: libc::c_long = 28;

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// With no program named beside it: before all others, the head.
const BPF_F_BEFORE: u32 = 1 << 3;

/// A program attached to one direction of an interface. Dropping it detaches the program.
#[derive(Debug)]
pub struct TcxLink {
    /// Keeps the link; nothing is asked of it any more.
    _fd: OwnedFd,
    /// The kernel's number for the link.
    id: u32,
}

/// A program that runs at a TCX hook, and the link that holds it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TcxProgram {
    pub(super) program: u32,
    /// 0 where it was attached without a link.
    pub(super) link: u32,
}

/// The most programs at one hook, `BPF_MPROG_MAX`.
const PROGRAMS_MAX: usize = 64;

/// `union bpf_attr` as `BPF_LINK_CREATE` reads it for TCX.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    padding: u32,
    expected_revision: u64,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct ObjectInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// How `struct bpf_link_info` and `struct bpf_prog_info` begin, `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
}

/// `union bpf_attr` as `BPF_PROG_QUERY` reads it.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_ifindex: u32,
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

/// `union bpf_attr` as `BPF_MAP_LOOKUP_BATCH` reads it.
#[repr(C)]
#[derive(Default)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
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

impl TcxLink {
    /// Attaches `program` before every other TCX program at that direction of the interface.
    ///
    /// `direction` is the container's, seen from the host end: what the container transmits comes in there.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the kernel has no TCX, `ENODEV` where the interface is gone.
    ///
    /// # Minimum kernel version
    ///
    /// 6.6.
    pub fn create(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> io::Result<Self> {
        let mut attributes = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_ifindex: ifindex,
            attach_type: attach_type(direction),
            flags: BPF_F_BEFORE,
            ..LinkCreate::default()
        };
        // SAFETY: no pointers in these attributes.
        let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }?;
        // SAFETY: the kernel has just made this descriptor, for us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
        let id = object_id(fd.as_fd())?;
        Ok(Self { _fd: fd, id })
    }

    /// The kernel's number for the link.
    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

/// The kernel's number for the program or link behind `fd`.
pub(super) fn object_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = Info::default();
    let mut attributes = ObjectInfo {
        fd: fd.as_raw_fd().cast_unsigned(),
        info_len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` lives through the call and its size is told.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info.id)
}

/// The programs of TCX at one direction of an interface, in the order in which they run.
///
/// # Errors
///
/// `ENODEV` where the interface is gone, `EINVAL` where the kernel has no TCX.
pub(super) fn tcx_programs(ifindex: u32, direction: Direction) -> io::Result<Vec<TcxProgram>> {
    let (mut programs, mut links) = ([0_u32; PROGRAMS_MAX], [0_u32; PROGRAMS_MAX]);
    let mut attributes = ProgQuery {
        target_ifindex: ifindex,
        attach_type: attach_type(direction),
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

fn attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::Transmit => BPF_TCX_INGRESS,
        Direction::Receive => BPF_TCX_EGRESS,
    }
}

/// Whether the kernel has TCX, found by asking for the programs at the loopback interface: nothing is attached.
pub fn tcx_is_supported() -> bool {
    let mut attributes = ProgQuery {
        target_ifindex: 1,
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

/// Reads every entry of a per-CPU hash map: the key, and one value per possible CPU.
///
/// Entries that come or go meanwhile may be missed or seen; none that stays is missed unless its bucket's list
/// changes under the reader, which the kernel excludes by holding the bucket's lock.
///
/// # Minimum kernel version
///
/// 5.6.
///
/// # Safety
///
/// `K` and `V` must have the map's key and value sizes, `V`'s a multiple of 8, and no invalid bit pattern.
pub(super) unsafe fn per_cpu_hash_entries<K: Copy + Default, V: Copy + Default>(
    map: BorrowedFd<'_>,
    cpus: usize,
    mut entry: impl FnMut(K, &[V]),
) -> io::Result<()> {
    // A batch must hold at least the fullest bucket; a bucket of a map half full holds a handful.
    let mut size = 256_usize;
    let (mut keys, mut values) = (vec![K::default(); size], vec![V::default(); size * cpus]);
    // The kernel's cursor through a hash is a bucket number of 4 bytes.
    let (mut cursor, mut started) = (0_u64, false);
    loop {
        let mut next = cursor;
        let mut attributes = MapBatch {
            in_batch: if started {
                std::ptr::from_mut(&mut cursor) as u64
            } else {
                0
            },
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: size as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            ..MapBatch::default()
        };
        // SAFETY: the buffers hold `size` keys and `size` × CPUs values of the map's sizes (the caller's promise).
        let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        let end = match result {
            Ok(_) => false,
            // The end of the map; the last entries came with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // The bucket is larger than the batch: nothing of it was read.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                size *= 2;
                keys.resize(size, K::default());
                values.resize(size * cpus, V::default());
                if attributes.count == 0 {
                    continue;
                }
                false
            }
            Err(error) => return Err(error),
        };
        let count = attributes.count as usize;
        for (key, per_cpu) in keys.iter().zip(values.chunks_exact(cpus)).take(count) {
            entry(*key, per_cpu);
        }
        if end {
            return Ok(());
        }
        (cursor, started) = (next, true);
    }
}
