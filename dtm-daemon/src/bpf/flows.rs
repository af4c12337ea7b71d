//! The matrix of who sends to whom, read in batches and summed over the CPUs.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::maps::{MapData, MapError, PerCpuHashMap, PerCpuValues};
use dtm_common::{
    flows::{FLOWS_SPARE, FlowKey},
    views::Volume,
};

use super::sys;

/// The kernel side's pairs.
pub struct FlowMap {
    map: PerCpuHashMap<MapData, FlowKey, Volume>,
    /// The same map; aya keeps its own descriptor to itself.
    fd: OwnedFd,
    cpus: usize,
}

/// Entries of the map for so many pairs.
pub(super) fn entries(pairs: u32) -> u32 {
    pairs + FLOWS_SPARE
}

impl FlowMap {
    /// Enters [`FlowKey::REST`] where it is not there yet.
    pub(super) fn new(
        mut map: PerCpuHashMap<MapData, FlowKey, Volume>,
        fd: OwnedFd,
        cpus: usize,
    ) -> Result<Self, MapError> {
        if let Err(MapError::KeyNotFound) = map.get(&FlowKey::REST, 0) {
            let zeroes = PerCpuValues::try_from(vec![Volume::default(); cpus])?;
            map.insert(FlowKey::REST, zeroes, 0)?;
        }
        Ok(Self { map, fd, cpus })
    }

    /// Every pair, summed over the CPUs.
    pub fn read(&self) -> io::Result<HashMap<FlowKey, Volume>> {
        read(self.fd.as_fd(), self.cpus)
    }

    /// Takes a pair out and returns what it had moved, which is nothing where it is not there.
    pub fn take(&mut self, key: &FlowKey) -> Result<Volume, MapError> {
        let last = match self.map.get(key, 0) {
            Ok(volumes) => volumes.iter().copied().sum(),
            Err(MapError::KeyNotFound) => return Ok(Volume::default()),
            Err(error) => return Err(error),
        };
        self.remove(key).map(|()| last)
    }

    /// Takes a pair out. That it is not there is no error.
    pub fn remove(&mut self, key: &FlowKey) -> Result<(), MapError> {
        super::kernel::removed(self.map.remove(key)).map(drop)
    }
}

/// Every entry of a map of pairs, summed over the CPUs.
pub(super) fn read(map: BorrowedFd<'_>, cpus: usize) -> io::Result<HashMap<FlowKey, Volume>> {
    let mut entries = HashMap::new();
    #[expect(unsafe_code, reason = "the key and value types are promised to be the map's")]
    // SAFETY: the map has exactly these types, whose sizes are 8 and 16: dtm made it, or has looked at its shape.
    unsafe {
        sys::per_cpu_hash_entries(map, cpus, |key: FlowKey, values: &[Volume]| {
            entries.insert(key, values.iter().copied().sum());
        })?;
    }
    Ok(entries)
}
