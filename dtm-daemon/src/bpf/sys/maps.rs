//! Making maps that are not in the object, and putting maps into an array of maps.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::{bpf, made, program::NAME_BYTES, program::object_name};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_FREEZE: libc::c_long = 22;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// Programs cannot write to the map.
const BPF_F_RDONLY_PROG: u32 = 1 << 7;
/// The map's memory can be a process's as well.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// `union bpf_attr` as `BPF_MAP_CREATE` reads it.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

/// `union bpf_attr` as `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM` read it.
#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` as `BPF_MAP_GET_FD_BY_ID` reads it.
#[repr(C)]
#[derive(Default)]
struct GetById {
    id: u32,
    next_id: u32,
    open_flags: u32,
    padding: u32,
}

/// `union bpf_attr` as `BPF_BTF_LOAD` reads it.
#[repr(C)]
#[derive(Default)]
struct BtfLoad {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    padding: u32,
}

/// A frozen array of one entry, whose contents the verifier takes for what they are.
///
/// # Minimum kernel version
///
/// 5.2.
pub(in crate::bpf) fn constants(values: &[u8]) -> io::Result<OwnedFd> {
    let map = array("dtm_constants", values.len() as u32, 1, BPF_F_RDONLY_PROG, None)?;
    // SAFETY: the value has the map's size.
    unsafe { set(&map, 0, values.as_ptr()) }?;
    let mut attributes = map.as_raw_fd();
    // SAFETY: no pointers in these attributes, which are the descriptor alone.
    unsafe { bpf(BPF_MAP_FREEZE, &mut attributes) }?;
    Ok(map)
}

/// An array of `entries` times `bytes` of memory, all zero, that can be mapped.
///
/// # Minimum kernel version
///
/// 5.5.
pub(in crate::bpf) fn memory(name: &str, bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    array(name, bytes, entries, BPF_F_MMAPABLE, None)
}

/// As [`memory`], of words in a structure, and described as that: kernels before 6.2 tell maps that are described from those
/// that are not, and take only what is like the description of the array of maps that it is for.
pub(in crate::bpf) fn described_memory(name: &str, words: u32, entries: u32) -> io::Result<OwnedFd> {
    let types = describe(words)?;
    let bytes = words * size_of::<u64>() as u32;
    array(name, bytes, entries, BPF_F_MMAPABLE, Some(&types))
}

/// An array map; its types are 1 and 4 of `types`.
fn array(
    name: &str,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    types: Option<&OwnedFd>,
) -> io::Result<OwnedFd> {
    let (btf_fd, btf_key_type_id, btf_value_type_id) =
        types.map_or((0, 0, 0), |types| (types.as_raw_fd().cast_unsigned(), 1, 4));
    let mut attributes = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size,
        max_entries,
        map_flags,
        map_name: object_name(name),
        btf_fd,
        btf_key_type_id,
        btf_value_type_id,
        ..MapCreate::default()
    };
    // SAFETY: no pointers in these attributes.
    unsafe { made(BPF_MAP_CREATE, &mut attributes) }
}

/// Type information (`Documentation/bpf/btf.rst`): 1 is `u32`, 2 is `u64`, 3 an array of so many, 4 a structure with that.
fn describe(words: u32) -> io::Result<OwnedFd> {
    const STRINGS: &[u8] = b"\0u32\0u64\0words\0views\0";
    let (int, array, structure) = (1 << 24, 3 << 24, 4 << 24);
    let types = [
        [1, int, 4, 32].as_slice(),
        &[5, int, 8, 64],
        &[0, array, 0, 2, 1, words],
        &[15, structure | 1, words * 8, 9, 3, 0],
    ]
    .concat();
    let type_bytes = (types.len() * size_of::<u32>()) as u32;
    // Magic number and version, then lengths and where things are.
    let mut text = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, type_bytes, type_bytes, STRINGS.len() as u32] {
        text.extend(u32::to_le_bytes(word));
    }
    text.extend(types.into_iter().flat_map(u32::to_le_bytes));
    text.extend(STRINGS);
    let mut attributes = BtfLoad {
        btf: text.as_ptr() as u64,
        btf_size: text.len() as u32,
        ..BtfLoad::default()
    };
    // SAFETY: the text lives through the call and its size is told.
    unsafe { made(BPF_BTF_LOAD, &mut attributes) }
}

/// Opens the map at `index` of an array of maps; none where there is none.
///
/// # Minimum kernel version
///
/// 4.14.
pub(in crate::bpf) fn inner_map(outer: BorrowedFd<'_>, index: u32) -> io::Result<Option<OwnedFd>> {
    let mut id = 0_u32;
    let mut attributes = element(outer, &index, std::ptr::from_mut(&mut id).cast());
    // SAFETY: the key and the value live through the call and have the sizes of such a map's: 4 bytes each.
    match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes) } {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        result => result?,
    };
    let mut attributes = GetById {
        id,
        ..GetById::default()
    };
    // SAFETY: no pointers in these attributes.
    unsafe { made(BPF_MAP_GET_FD_BY_ID, &mut attributes) }.map(Some)
}

/// Puts a map at `index` of an array of maps, which keeps it.
///
/// # Errors
///
/// `EINVAL` where it is of another shape than that which the array was made for.
pub(in crate::bpf) fn set_inner_map(
    outer: BorrowedFd<'_>,
    index: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<()> {
    let inner = inner.as_raw_fd();
    // SAFETY: the value of such a map has the size of a descriptor.
    unsafe { set(outer, index, std::ptr::from_ref(&inner).cast()) }
}

/// Sets an entry of an array.
///
/// # Safety
///
/// `value` must be as long as the map's values.
unsafe fn set(map: impl std::os::fd::AsFd, index: u32, value: *const u8) -> io::Result<()> {
    let mut attributes = element(map.as_fd(), &index, value);
    // SAFETY: the key lives through the call; the rest is the caller's promise.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

fn element(map: BorrowedFd<'_>, index: &u32, value: *const u8) -> MapElement {
    MapElement {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: std::ptr::from_ref(index) as u64,
        value: value as u64,
        ..MapElement::default()
    }
}
