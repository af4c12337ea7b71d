//! The daemon's own process, as `/proc/self` has it.

use anyhow::Context as _;
use procfs::{ProcResult, WithCurrentSystemInfo as _, process::LimitValue};

/// What every Prometheus client library shows of its process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// Seconds of CPU, user and system.
    pub(super) cpu_seconds: f64,
    /// Memory in RAM.
    pub(super) resident_bytes: u64,
    /// Address space.
    pub(super) virtual_bytes: u64,
    /// Open file descriptors.
    pub(super) open_fds: u64,
    /// How many there may be; infinite where there is no limit.
    pub(super) max_fds: f64,
    /// The start, in seconds since the epoch.
    pub(super) start_time: f64,
    /// Threads.
    pub(super) threads: u64,
}

impl Process {
    /// Reads it.
    pub(super) fn read() -> anyhow::Result<Self> {
        Self::from_proc().context("read /proc/self")
    }

    fn from_proc() -> ProcResult<Self> {
        let process = procfs::process::Process::myself()?;
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        let max_fds = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(value) => value as f64,
            LimitValue::Unlimited => f64::INFINITY,
        };
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            open_fds: process.fd_count()? as u64,
            max_fds,
            start_time: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
            threads: u64::try_from(stat.num_threads).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::Process;

    #[test]
    fn this_process_is_plausible() {
        let process = Process::read().unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        // The boot time is in whole seconds.
        assert!(
            process.start_time > now - 86_400.0 && process.start_time < now + 2.0,
            "{process:?}"
        );
        assert!(
            process.resident_bytes > 1 << 20 && process.resident_bytes < process.virtual_bytes,
            "{process:?}"
        );
        assert!(process.threads >= 1 && process.open_fds >= 3, "{process:?}");
        assert!(
            process.max_fds >= 3.0 && process.cpu_seconds >= 0.0,
            "{process:?}"
        );
    }
}
