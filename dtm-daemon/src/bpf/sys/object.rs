//! Objects that outlive the process that made them: pinned in a BPF file system, opened from there, and given another
//! program.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::bpf_prog_info;

use super::{BPF_OBJ_GET_INFO_BY_FD, LinkCreate, ObjectInfo, bpf, info, made};

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Of `enum bpf_attach_type`.
const BPF_TRACE_ITER: u32 = 28;

/// `union bpf_attr` as `BPF_OBJ_PIN` and `BPF_OBJ_GET` read it.
#[repr(C)]
#[derive(Default)]
struct ObjectPath {
    path: u64,
    fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` as `BPF_LINK_UPDATE` reads it.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr` as `BPF_RAW_TRACEPOINT_OPEN` reads it.
#[repr(C)]
#[derive(Default)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

/// `union bpf_attr` as `BPF_PROG_GET_FD_BY_ID` reads it.
#[repr(C)]
#[derive(Default)]
struct ProgramId {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// How `struct bpf_map_info` begins, `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// What makes a map one that a program was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bpf) struct MapShape {
    pub(in crate::bpf) kind: u32,
    pub(in crate::bpf) key_size: u32,
    pub(in crate::bpf) value_size: u32,
    pub(in crate::bpf) max_entries: u32,
    pub(in crate::bpf) flags: u32,
}

/// Gives a map, a program or a link a name in a BPF file system, which keeps it.
///
/// # Errors
///
/// `EPERM` where the directory is in another file system, `EEXIST`, `ENOENT`, `EROFS` as for every other file.
///
/// # Minimum kernel version
///
/// 4.4; 5.7 for links.
pub(in crate::bpf) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectPath {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: the path is a string that ends with a zero and lives through the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Opens what has a name in a BPF file system.
pub(in crate::bpf) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectPath {
        path: path.as_ptr() as u64,
        ..ObjectPath::default()
    };
    // SAFETY: the path is a string that ends with a zero and lives through the call.
    unsafe { made(BPF_OBJ_GET, &mut attributes) }
}

/// Attaches a program to the tracepoint it was loaded for, by a link that can be pinned.
///
/// # Minimum kernel version
///
/// 5.8.
pub(in crate::bpf) fn attach_tracepoint(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attributes = RawTracepointOpen {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        ..RawTracepointOpen::default()
    };
    // SAFETY: the only pointer is null, for such a program knows its tracepoint.
    unsafe { made(BPF_RAW_TRACEPOINT_OPEN, &mut attributes) }
}

/// Makes a link by which a program can be walked over the kernel's objects it was loaded for.
///
/// # Minimum kernel version
///
/// 5.8.
pub(in crate::bpf) fn attach_iterator(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_TRACE_ITER,
        ..LinkCreate::default()
    };
    attributes.create()
}

/// The program that a link has attached.
pub(in crate::bpf) fn program_of(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attributes = ProgramId {
        id: info(link)?.prog_id,
        ..ProgramId::default()
    };
    // SAFETY: no pointers.
    unsafe { made(BPF_PROG_GET_FD_BY_ID, &mut attributes) }
}

/// Walks such a program over the objects of the calling thread's network namespace.
pub(in crate::bpf) fn iterate(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = [link.as_raw_fd().cast_unsigned(), 0];
    // SAFETY: no pointers in these attributes, which are the descriptor and no flags.
    let mut walk = File::from(unsafe { made(BPF_ITER_CREATE, &mut attributes) }?);
    // It writes nothing; the kernel gives up and says so where a walk takes it too long, and goes on from there.
    let mut nothing = [0; 64];
    loop {
        match walk.read(&mut nothing) {
            Ok(0) => return Ok(()),
            Ok(_written) => {}
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}

/// How often the kernel has left a program out because it was running already; 0 before Linux 5.12.
pub(in crate::bpf) fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: numbers only, for which zero is valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attributes = ObjectInfo {
        fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of::<bpf_prog_info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` lives through the call, its size is told, and it asks for no lists.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info.recursion_misses)
}

/// Has a link hold another program in the stead of the one it has; each packet passes one of the two.
///
/// # Errors
///
/// `ENOLINK` where the link holds nothing any more: its interface or group is gone, or somebody detached it.
pub(in crate::bpf) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        ..LinkUpdate::default()
    };
    // SAFETY: no pointers in these attributes.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attributes) }.map(drop)
}

/// Takes a link's program off, whoever else holds the link. That there is none any more is no error.
///
/// # Minimum kernel version
///
/// 5.9; before it the program is off when nobody holds the link.
pub(in crate::bpf) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = link.as_raw_fd();
    // SAFETY: no pointers in these attributes, which are the descriptor alone.
    match unsafe { bpf(BPF_LINK_DETACH, &mut attributes) } {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        result => result.map(drop),
    }
}

/// The shape of the map behind `map`.
pub(in crate::bpf) fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut info = MapInfo::default();
    let mut attributes = ObjectInfo {
        fd: map.as_raw_fd().cast_unsigned(),
        info_len: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` lives through the call and its size is told.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    let MapInfo {
        kind,
        id: _,
        key_size,
        value_size,
        max_entries,
        map_flags,
    } = info;
    Ok(MapShape {
        kind,
        key_size,
        value_size,
        max_entries,
        flags: map_flags,
    })
}
