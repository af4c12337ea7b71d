//! Reading a per-CPU hash in batches.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::bpf;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

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
pub(in crate::bpf) unsafe fn per_cpu_hash_entries<K: Copy + Default, V: Copy + Default>(
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
