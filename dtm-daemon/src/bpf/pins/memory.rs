//! Memory that outlives the process: a map that nothing but dtm reads, mapped into it.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use crate::{
    bpf::{
        mapping::Mapping,
        sys::{self, map_shape},
    },
    journal::Region,
};

/// Bytes of an entry: a page, so that nothing is rounded.
const PAGE: usize = 4096;

/// The memory of a map.
#[derive(Debug)]
pub struct SharedMemory {
    map: OwnedFd,
    mapping: Mapping,
}

impl SharedMemory {
    /// At least so many bytes, all zero.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let pages = u32::try_from(bytes.div_ceil(PAGE)).map_err(io::Error::other)?;
        Self::of(sys::memory("dtm_journal", PAGE as u32, pages.max(1))?)
    }

    /// The memory of this map, if it is one that [`new`](Self::new) made.
    pub(super) fn of(map: OwnedFd) -> io::Result<Self> {
        let shape = map_shape(map.as_fd())?;
        if shape.value_size as usize != PAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no journal of dtm's"));
        }
        let mapping = Mapping::new(map.as_fd(), shape.max_entries as usize * PAGE)?;
        Ok(Self { map, mapping })
    }

    pub(super) fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl Region for SharedMemory {
    fn size(&self) -> usize {
        self.mapping.size()
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.mapping.bytes_mut()
    }

    fn word(&self, at: usize) -> u64 {
        self.mapping.words()[at / size_of::<u64>()].load(Ordering::Acquire)
    }

    fn set_word(&mut self, at: usize, value: u64) {
        self.mapping.words()[at / size_of::<u64>()].store(value, Ordering::Release);
    }
}
