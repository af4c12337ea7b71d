//! The machine's cgroup hierarchies, and what runs in a group.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::Engine;
use super::poll::eventually;

const EMPTYING: Duration = Duration::from_secs(20);

/// Which cgroup version an engine in the host finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupWorld {
    /// cgroup v2 at `/sys/fs/cgroup`: what current distributions have.
    V2,
    /// The machine's own mixture: v1 hierarchies, and v2 at `/sys/fs/cgroup/unified` where it has one.
    Hybrid,
}

impl CgroupWorld {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Where this machine has its cgroup hierarchies mounted.
#[derive(Debug)]
pub(super) struct Hierarchies {
    pub(super) unified: PathBuf,
    pub(super) legacy: Vec<PathBuf>,
}

impl Hierarchies {
    pub(super) fn of_this_machine() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        Self::parse(&mounts).context("no cgroup v2 hierarchy is mounted on this machine")
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut unified = None;
        let mut legacy = Vec::new();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount_point) = before.split(' ').nth(4) else {
                continue;
            };
            match after.split(' ').next() {
                Some("cgroup2") => unified = unified.or(Some(PathBuf::from(mount_point))),
                Some("cgroup") => legacy.push(PathBuf::from(mount_point)),
                _ => {}
            }
        }
        Some(Self {
            unified: unified?,
            legacy,
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.unified).chain(&self.legacy)
    }
}

impl Engine {
    /// The control group of a running container in the v2 hierarchy, as this process sees it. In a hybrid world it has
    /// one there too.
    pub fn container_cgroup(&self, container: &str) -> Result<PathBuf> {
        let process = self.docker(["inspect", "--format", "{{.State.Pid}}", container])?;
        let file = format!("/proc/{process}/cgroup");
        let groups = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        let group = group.with_context(|| format!("no cgroup v2 group in {file}"))?;
        Ok(Hierarchies::of_this_machine()?.unified.join(group))
    }
}

/// Every process in `group` and in the groups below it.
pub(super) fn processes(group: &Path) -> Vec<Pid> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut processes: Vec<Pid> = own
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
        .collect();
    // A group may vanish while it is read; then it has no processes.
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes.extend(self::processes(&entry.path()));
        }
    }
    processes
}

/// Ends every process in `group` and below, each by its own id.
pub(super) fn kill_all(group: &Path) -> Result<()> {
    eventually(
        EMPTYING,
        &format!("end of the processes in {}", group.display()),
        || {
            let processes = processes(group);
            for &process in &processes {
                match kill_process(process, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(error) => return Err(error).context(format!("end process {process:?}")),
                }
            }
            Ok(processes.is_empty().then_some(()))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_has_both() {
        let mounts = "\
            20 1 0:5 / /proc rw shared:1 - proc proc rw\n\
            30 1 0:21 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            31 1 0:22 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let hierarchies = Hierarchies::parse(mounts).unwrap();
        assert_eq!(hierarchies.unified, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(hierarchies.legacy, [Path::new("/sys/fs/cgroup/cpu")]);
    }

    #[test]
    fn a_machine_without_v2_is_refused() {
        assert!(Hierarchies::parse("30 1 0:21 / /cg rw - cgroup cgroup rw,cpu\n").is_none());
    }
}
