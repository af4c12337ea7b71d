//! Container runtimes: runc or crun with what it is told changed on the way.
//!
//! One is for machines whose root is not allowed everything: `docker run --privileged` asks for every capability the
//! kernel knows and fails where the engine itself lacks one, as in many virtual machines and build containers. The other
//! puts containers into the control groups that systemd would give them, where there is no systemd to ask.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What Docker's `--runtime` calls the one that asks for no more than there is.
pub(super) const NAME: &str = "dtm-runc";
/// What Docker's `--runtime` calls the one that makes scopes.
pub(super) const SCOPES: &str = "dtm-scopes";

/// In the kernel's order (`linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What allows a process to raise its limits.
const RESOURCES: &str = "SYS_RESOURCE";

/// Podman asks for higher limits than it may have itself, and crun for one of memory before it says which devices there
/// are: without [`RESOURCES`] both are left out, for sed.
const NO_LIMITS: &str =
    r#"s/"rlimits":\[[^]]*\]/"rlimits":[]/g;s/"devices":\[{"allow"[^]]*\]/"devices":[]/g"#;

/// Writes a wrapper around `runc` into `directory`, where this machine needs one.
pub(super) fn install(directory: &Path, runc: &Path) -> Result<Option<PathBuf>> {
    let missing = missing_here()?;
    if missing.is_empty() {
        return Ok(None);
    }
    write(directory, NAME, &script(&edits(&missing), runc)).map(Some)
}

/// As [`install`], around Podman's `crun`.
pub(super) fn install_for_podman(directory: &Path, crun: &Path) -> Result<Option<PathBuf>> {
    let missing = missing_here()?;
    if missing.is_empty() {
        return Ok(None);
    }
    let mut edits = edits(&missing);
    if missing.contains(&RESOURCES) {
        edits = format!("{edits};{NO_LIMITS}");
    }
    write(directory, NAME, &script(&edits, crun)).map(Some)
}

/// The capabilities that this process may not give to anybody.
fn missing_here() -> Result<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").context("read cap_last_cap")?;
    let last: usize = last.trim().parse().context("parse cap_last_cap")?;
    missing(&status, last).context("no CapBnd in /proc/self/status")
}

/// Writes a wrapper around `runc` into `directory` that moves containers from the group `parent` to where systemd's
/// driver has them: a scope `docker-<id>.scope` in `system.slice` of the group `host`.
pub(super) fn install_scopes(directory: &Path, host: &str, parent: &str, runc: &Path) -> Result<PathBuf> {
    let script = format!(
        r#"#!/bin/sh
previous=
for argument do
    case $previous in
    --bundle|-b)
        sed -i 's|"cgroupsPath":"{parent}/\([0-9a-f]*\)"|"cgroupsPath":"/{host}/system.slice/docker-\1.scope"|' \
            "$argument/config.json" || exit ;;
    esac
    previous=$argument
done
exec '{runc}' "$@"
"#,
        runc = runc.display()
    );
    write(directory, SCOPES, &script)
}

fn write(directory: &Path, name: &str, script: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make the runtime executable")?;
    Ok(path)
}

/// The capabilities up to `last` that the bounding set lacks.
fn missing(status: &str, last: usize) -> Option<Vec<&'static str>> {
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    let bounding = u64::from_str_radix(bounding.trim(), 16).ok()?;
    let known = CAPABILITIES.iter().enumerate().take(last + 1);
    Some(
        known
            .filter(|(bit, _)| bounding & (1 << bit) == 0)
            .map(|(_, name)| *name)
            .collect(),
    )
}

/// What makes sed take these capabilities out.
fn edits(missing: &[&str]) -> String {
    let edit = |name: &&str| format!(r#"s/"CAP_{name}",//g;s/,"CAP_{name}"//g;s/\["CAP_{name}"\]/[]/g"#);
    missing.iter().map(edit).collect::<Vec<_>>().join(";")
}

/// Runtimes read what is wanted from the bundle (`create`) or from a file of its own (`exec`).
fn script(edits: &str, runc: &Path) -> String {
    format!(
        r#"#!/bin/sh
previous=
for argument do
    case $previous in
    --bundle|-b) file=$argument/config.json ;;
    --process|-p) file=$argument ;;
    *) file= ;;
    esac
    [ ! -f "$file" ] || sed -i '{edits}' "$file" || exit
    previous=$argument
done
exec '{runc}' "$@"
"#,
        runc = runc.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_lacking_ones_are_missing() {
        let status = "Name:\tx\nCapBnd:\t000001fffeffffff\n";
        assert_eq!(missing(status, 40).unwrap(), ["SYS_RESOURCE"]);
        assert_eq!(missing("CapBnd:\t000001ffffffffff\n", 40).unwrap(), [""; 0]);
    }

    #[test]
    fn an_older_kernel_lacks_nothing_it_does_not_know() {
        assert_eq!(missing("CapBnd:\t0000003fffffffff\n", 37).unwrap(), [""; 0]);
    }
}
