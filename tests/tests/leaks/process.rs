//! A process as `/proc` shows it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
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

    /// Its own memory in RAM, without files and maps it shares with the kernel: kB of `RssAnon`.
    pub(crate) fn anonymous_memory(self) -> Result<u64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let value = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        value.context("/proc/<pid>/status has no RssAnon")
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
