//! The map of drops, read in batches and summed over the CPUs.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::maps::{MapData, MapError, PerCpuHashMap, PerCpuValues};
use dtm_common::drops::{DropKey, DropTally};

use super::sys;

/// The kernel side's drops by owner, reason and direction.
pub struct DropMap {
    map: PerCpuHashMap<MapData, DropKey, DropTally>,
    /// The same map; aya keeps its own descriptor to itself.
    fd: OwnedFd,
    cpus: usize,
}

impl DropMap {
    pub(super) fn new(map: PerCpuHashMap<MapData, DropKey, DropTally>, fd: OwnedFd, cpus: usize) -> Self {
        Self { map, fd, cpus }
    }

    /// Every entry, summed over the CPUs.
    pub fn read(&self) -> io::Result<Vec<(DropKey, DropTally)>> {
        read(self.fd.as_fd(), self.cpus)
    }

    /// Adds to an entry what was counted elsewhere.
    pub fn add(&mut self, key: DropKey, tally: DropTally) -> Result<(), MapError> {
        let mut values = match self.map.get(&key, 0) {
            Ok(values) => values.to_vec(),
            Err(MapError::KeyNotFound) => vec![DropTally::default(); self.cpus],
            Err(error) => return Err(error),
        };
        values[0].packets += tally.packets;
        values[0].bytes += tally.bytes;
        self.map.insert(key, PerCpuValues::try_from(values)?, 0)
    }

    /// Takes `key` out. That it is not there is no error.
    pub fn remove(&mut self, key: &DropKey) -> Result<(), MapError> {
        match self.map.remove(key) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            result => result,
        }
    }
}

/// Every entry of a map of drops, summed over the CPUs.
pub(super) fn read(map: BorrowedFd<'_>, cpus: usize) -> io::Result<Vec<(DropKey, DropTally)>> {
    let mut entries = Vec::new();
    #[expect(unsafe_code, reason = "the key and value types are promised to be the map's")]
    // SAFETY: the map has exactly these types, whose sizes are 12 and 16: dtm made it, or has looked at its shape.
    unsafe {
        sys::per_cpu_hash_entries(map, cpus, |key: DropKey, values: &[DropTally]| {
            let sum = values.iter().fold(DropTally::default(), |sum, value| DropTally {
                packets: sum.packets + value.packets,
                bytes: sum.bytes + value.bytes,
            });
            entries.push((key, sum));
        })?;
    }
    Ok(entries)
}
