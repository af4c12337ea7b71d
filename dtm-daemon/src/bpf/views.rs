//! The second view of each slot, mapped into the daemon chunk by chunk.
//!
//! The kernel waits for all programs whenever a map is put into an array of maps: some ten milliseconds for each CPU, in
//! which a container could have sent its first packets. So the next chunk is made before a slot of it is needed.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
    thread::{Builder, JoinHandle},
};

use dtm_common::views::{CHUNK, ViewCounters};

use super::{
    mapping::Mapping,
    sys::{self, inner_map, set_inner_map},
};

/// 64-bit words in a slot, the reserved ones included.
const WORDS: usize = size_of::<ViewCounters>() / size_of::<u64>();

/// Chunks of a CPU that so many slots need.
pub(super) fn chunks(slots: u32) -> u32 {
    slots.div_ceil(CHUNK)
}

/// Every CPU's chunks, as far as there are any.
#[derive(Debug)]
pub(super) struct ViewBanks {
    /// The array of chunks.
    map: OwnedFd,
    /// Chunks of each CPU, where all of them are there.
    chunks: u32,
    cpus: usize,
    /// Those that are there: one mapping for each CPU.
    mapped: BTreeMap<u32, Vec<Mapping>>,
    /// The one that is being made.
    ahead: Option<(u32, Making)>,
}

/// Makes a chunk: one map for each CPU.
type Making = JoinHandle<io::Result<Vec<OwnedFd>>>;

impl ViewBanks {
    /// The chunks that are in `map` already.
    pub(super) fn open(map: OwnedFd, chunks: u32, cpus: usize) -> io::Result<Self> {
        let mut banks = Self {
            map,
            chunks,
            cpus,
            mapped: BTreeMap::new(),
            ahead: None,
        };
        for chunk in 0..chunks {
            let maps = (0..cpus).map(|cpu| inner_map(banks.map.as_fd(), banks.index(cpu, chunk)));
            let maps = maps.collect::<io::Result<Option<Vec<_>>>>()?;
            // Somebody may have been killed while he made it.
            if let Some(maps) = maps {
                banks.add(chunk, &maps)?;
            }
        }
        banks.make_ahead(0)?;
        Ok(banks)
    }

    /// Sees to it that a slot's chunk is there, and has the next one made meanwhile.
    pub(super) fn prepare(&mut self, slot: u32) -> io::Result<()> {
        let chunk = slot / CHUNK;
        if !self.mapped.contains_key(&chunk) {
            let ahead = self.ahead.take_if(|(ahead, _making)| *ahead == chunk);
            // What there was no memory for then there may be now.
            let made = ahead.and_then(|(_chunk, making)| making.join().ok()?.ok());
            let made = made.map_or_else(|| make(self.map.as_fd(), &self.indices(chunk)), Ok)?;
            self.add(chunk, &made)?;
        }
        self.make_ahead(chunk + 1)
    }

    /// Begins to make a chunk that is not there, unless another one is being made.
    fn make_ahead(&mut self, chunk: u32) -> io::Result<()> {
        if chunk >= self.chunks || self.mapped.contains_key(&chunk) || self.ahead.is_some() {
            return Ok(());
        }
        let map = self.map.try_clone()?;
        let indices = self.indices(chunk);
        let making = Builder::new().name("dtm-chunks".to_owned());
        let making = making.spawn(move || make(map.as_fd(), &indices))?;
        self.ahead = Some((chunk, making));
        Ok(())
    }

    fn add(&mut self, chunk: u32, maps: &[OwnedFd]) -> io::Result<()> {
        let mapped = maps.iter().map(|map| map_chunk(map.as_fd()));
        self.mapped.insert(chunk, mapped.collect::<io::Result<_>>()?);
        Ok(())
    }

    fn index(&self, cpu: usize, chunk: u32) -> u32 {
        cpu as u32 * self.chunks + chunk
    }

    /// Where a chunk is in the array, for each CPU.
    fn indices(&self, chunk: u32) -> Vec<u32> {
        (0..self.cpus).map(|cpu| self.index(cpu, chunk)).collect()
    }

    /// The sum of a slot over all CPUs; zeroes where its chunk is not there.
    pub(super) fn read(&self, slot: u32) -> ViewCounters {
        let mut sum = ViewCounters::default();
        for mapping in self.mapped.get(&(slot / CHUNK)).into_iter().flatten() {
            add_words(&mut sum, words(mapping, slot));
        }
        sum
    }

    /// Sets a slot to zero. Only for a slot no attached program counts into.
    pub(super) fn clear(&self, slot: u32) {
        for mapping in self.mapped.get(&(slot / CHUNK)).into_iter().flatten() {
            for word in words(mapping, slot) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Puts a new map at each of these places in the array `chunks`, described if that is.
fn make(chunks: BorrowedFd<'_>, indices: &[u32]) -> io::Result<Vec<OwnedFd>> {
    let one = |index: &u32| {
        let put = |map: OwnedFd| set_inner_map(chunks, *index, map.as_fd()).map(|()| map);
        let described = sys::described_memory("dtm_views", WORDS as u32, CHUNK).and_then(put);
        described.or_else(|_other| {
            let bytes = size_of::<ViewCounters>() as u32;
            sys::memory("dtm_views", bytes, CHUNK).and_then(put)
        })
    };
    indices.iter().map(one).collect()
}

fn map_chunk(map: BorrowedFd<'_>) -> io::Result<Mapping> {
    Mapping::new(map, CHUNK as usize * size_of::<ViewCounters>())
}

fn words(mapping: &Mapping, slot: u32) -> &[AtomicU64] {
    &mapping.words()[(slot % CHUNK) as usize * WORDS..][..WORDS]
}

fn add_words(sum: &mut ViewCounters, words: &[AtomicU64]) {
    for (sum, word) in sum.words_mut().zip(words) {
        *sum += word.load(Ordering::Relaxed);
    }
}
