//! A process as `/proc` shows it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xtask::host::eventually;

/// How many of each there are, by what they are called.
pub(crate) type Kinds = BTreeMap<String, usize>;

/// How long the processor's time is measured at a time, and how often. Of several short windows the median is what the
/// process does when nothing happens, whatever it does every half minute.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: usize = 5;

/// A process by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    fn read(self, name: &str) -> Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Its open descriptors: paths as they are, sockets by their protocol, other things by their type.
    pub(crate) fn descriptors(self) -> Result<Kinds> {
        let mut protocols = HashMap::new();
        for protocol in ["netlink", "unix", "tcp", "tcp6"] {
            for line in self.read(&format!("net/{protocol}"))?.lines().skip(1) {
                // Where the inode stands differs; a number that is another column's belongs to no socket of this process.
                protocols.extend(line.split_whitespace().map(|word| (word.to_owned(), protocol)));
            }
        }
        let mut kinds = Kinds::new();
        for entry in fs::read_dir(self.file("fd")).context("list descriptors")? {
            // One that was closed meanwhile is none.
            let Ok(target) = entry.and_then(|entry| fs::read_link(entry.path())) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            let kind = match target.split_once(":[") {
                Some(("socket", inode)) => protocols
                    .get(inode.trim_end_matches(']'))
                    .map_or_else(|| "socket".to_owned(), |protocol| format!("{protocol} socket")),
                Some((kind, _inode)) => kind.to_owned(),
                None => target,
            };
            *kinds.entry(kind).or_default() += 1;
        }
        Ok(kinds)
    }

    /// Its threads, by name.
    pub(crate) fn threads(self) -> Result<Kinds> {
        let mut kinds = Kinds::new();
        for entry in fs::read_dir(self.file("task")).context("list threads")? {
            // One that ended meanwhile is none.
            if let Ok(name) = entry.and_then(|entry| fs::read_to_string(entry.path().join("comm"))) {
                *kinds.entry(name.trim().to_owned()).or_default() += 1;
            }
        }
        Ok(kinds)
    }

    /// Its own memory in RAM outside of the heap, without files and maps it shares with the kernel, in kB.
    pub(crate) fn memory_outside(self) -> Result<u64> {
        let mut is_heap = false;
        let mut sum = 0;
        for line in self.read("smaps")?.lines() {
            // Names of fields begin with a capital, addresses do not.
            if line.starts_with(|first: char| first.is_ascii_digit() || first.is_ascii_lowercase()) {
                is_heap = line.ends_with("[heap]");
            } else if let Some(size) = line.strip_prefix("Anonymous:").filter(|_size| !is_heap) {
                let size = size.trim().strip_suffix(" kB").context("a size in kB")?;
                sum += size.trim().parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    /// What it has allocated of its heap and not freed, in bytes.
    ///
    /// Read from the heap as glibc lays it out (`malloc/malloc.c`, `malloc_chunk`): pieces one behind another, each with its
    /// size at 8 bytes from its start, in whose lowest bit is whether the piece *before* it is in use. The last piece, up to
    /// the heap's end, is what was never given out. Pieces that glibc keeps for itself would seem to be in use: the process
    /// has to run without its caches.
    ///
    /// # Errors
    ///
    /// Where the heap changes under the reader each time.
    pub(crate) fn allocated(self) -> Result<u64> {
        eventually(WINDOW * 10, "a heap that holds still", || {
            let heap = self.heap()?;
            Ok((heap == self.heap()?).then(|| in_use(&heap)).flatten())
        })
    }

    fn heap(self) -> Result<Vec<u8>> {
        let maps = self.read("maps")?;
        let line = maps.lines().find(|line| line.ends_with("[heap]"));
        let range = line.and_then(|line| line.split_once(' ')?.0.split_once('-'));
        let (start, end) = range.context("no heap")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        let mut heap = vec![0; usize::try_from(end - start)?];
        let memory = fs::File::open(self.file("mem")).context("open its memory")?;
        memory.read_exact_at(&mut heap, start).context("read its heap")?;
        Ok(heap)
    }

    /// Processor time of all its threads.
    fn processor_time(self) -> Result<Duration> {
        let mut sum = 0;
        for entry in fs::read_dir(self.file("task")).context("list threads")? {
            let Ok(schedstat) = entry.and_then(|entry| fs::read_to_string(entry.path().join("schedstat")))
            else {
                continue;
            };
            let spent = schedstat
                .split(' ')
                .next()
                .and_then(|nanoseconds| nanoseconds.parse::<u64>().ok());
            sum += spent.context("a thread's schedstat")?;
        }
        Ok(Duration::from_nanos(sum))
    }

    /// What it spends in a second in which nothing happens.
    pub(crate) fn idle_cost(self) -> Result<Duration> {
        let mut spent = Vec::new();
        for _window in 0..WINDOWS {
            let (start, before) = (Instant::now(), self.processor_time()?);
            eventually(WINDOW * 10, "the end of a window", || {
                Ok((start.elapsed() >= WINDOW).then_some(()))
            })?;
            spent.push(self.processor_time()?.saturating_sub(before));
        }
        spent.sort_unstable();
        Ok(spent[WINDOWS / 2])
    }
}

/// Bytes of the pieces of a heap that are in use; none where it is not whole.
fn in_use(heap: &[u8]) -> Option<u64> {
    /// Besides the lowest bit, two more tell of arenas and mappings.
    const FLAGS: u64 = 7;
    let header = |at: usize| {
        let bytes = heap.get(at + 8..at + 16)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let (mut at, mut sum) = (0, 0);
    loop {
        let size = header(at)? & !FLAGS;
        let next = at + usize::try_from(size).ok().filter(|size| *size >= 16)?;
        if next == heap.len() {
            return Some(sum);
        }
        if header(next)? & 1 == 1 {
            sum += size;
        }
        at = next;
    }
}
