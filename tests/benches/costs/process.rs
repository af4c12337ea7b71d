//! What a process costs, by the kernel's own account.
#![expect(unsafe_code, reason = "the clock of another process has no wrapper")]

use std::io;

use anyhow::{Context as _, Result, ensure};

/// User and system time in ms of all its threads, those that have ended included.
pub(crate) fn cpu(id: u32) -> Result<f64> {
    let mut clock = 0;
    // SAFETY: the clock's id is written to a live variable.
    let error = unsafe { libc::clock_getcpuclockid(id.cast_signed(), &raw mut clock) };
    ensure!(error == 0, io::Error::from_raw_os_error(error));
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is written to a live variable.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6)
}

/// Memory in RAM, in megabytes of 10⁶ bytes.
pub(crate) fn resident_megabytes(id: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}
