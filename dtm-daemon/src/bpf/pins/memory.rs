//! Memory that outlives the process: a map that nothing but dtm reads, mapped into it.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    bpf::sys::{self, map_shape},
    journal::Region,
};

/// Bytes of an entry: a page, so that nothing is rounded.
const PAGE: usize = 4096;

/// The memory of a map. Unmapped when dropped.
#[derive(Debug)]
pub struct SharedMemory {
    map: OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and lives as long as it.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// At least so many bytes, all zero.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let pages = u32::try_from(bytes.div_ceil(PAGE)).map_err(io::Error::other)?;
        Self::of(sys::memory(PAGE as u32, pages.max(1))?)
    }

    /// The memory of this map, if it is one that [`new`](Self::new) made.
    pub(super) fn of(map: OwnedFd) -> io::Result<Self> {
        let shape = map_shape(map.as_fd())?;
        if shape.value_size as usize != PAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no journal of dtm's"));
        }
        Self::mapped(map, shape.max_entries as usize * PAGE)
    }

    /// So many bytes of a map that can be mapped.
    pub(in crate::bpf) fn mapped(map: OwnedFd, bytes: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping of a map made with BPF_F_MMAPABLE; nothing else refers to the address.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { map, base, bytes })
    }

    pub(super) fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(
            at.is_multiple_of(8) && at + 8 <= self.bytes,
            "word {at} of {}",
            self.bytes
        );
        // SAFETY: in bounds and aligned by the line above, for a mapping begins at a page.
        unsafe { self.base.add(at).cast().as_ref() }
    }
}

impl Region for SharedMemory {
    fn size(&self) -> usize {
        self.bytes
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the whole mapping, which is this value's: no program uses the map, and there is one dtm at a time.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }

    fn word(&self, at: usize) -> u64 {
        Self::word(self, at).load(Ordering::Acquire)
    }

    fn set_word(&mut self, at: usize, value: u64) {
        Self::word(self, at).store(value, Ordering::Release);
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped; no reference into it outlives `self`.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "munmap of the journal");
    }
}
