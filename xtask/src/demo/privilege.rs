//! Becoming root.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

/// Goes on only as root: anybody else's process turns into `sudo xtask` with these `words`.
///
/// # Errors
///
/// When there is no sudo.
pub(crate) fn ensure_root(words: &[OsString]) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let this = env::current_exe().context("find this program")?;
    println!("xtask: going on as root, which loading programs into the kernel takes");
    // sudo clears the environment; these are what the two programs read.
    let kept = env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("DTM_") || ["DOCKER_HOST", "PATH", "RUST_BACKTRACE"].contains(&name.as_ref())
    });
    let go = xtask::host::go_programs().map(|place| (OsString::from("GOBIN"), place.into_os_string()));
    let settings = kept.chain(go).map(|(mut setting, value)| {
        setting.push("=");
        setting.push(value);
        setting
    });
    let error = Command::new("sudo")
        .arg("env")
        .args(settings)
        .arg(this)
        .args(words)
        .exec();
    Err(error).context("start sudo; without it, run this as root")
}
