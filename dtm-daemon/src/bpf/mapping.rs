//! The memory of a map, mapped into the daemon.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

/// A map's memory. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: the mapping lives as long as the value, and is only shared as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// So many bytes, a multiple of eight, of a map that was made with `BPF_F_MMAPABLE`.
    pub(super) fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping; nothing else refers to the address.
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
        Ok(Self { base, bytes })
    }

    pub(super) fn size(&self) -> usize {
        self.bytes
    }

    /// All of it, as words that programs may change at any time.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: exactly the range that was mapped, which begins at a page; the kernel writes words only as aligned 64-bit
        // values.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes / size_of::<u64>()) }
    }

    /// All of it, where no program uses the map.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range that was mapped, which is this value's alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped; no reference into it outlives `self`.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "munmap of a map");
    }
}
