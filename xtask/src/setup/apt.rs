//! Debian's and Ubuntu's packages.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{programs::find, say};

/// Something that a package of Debian's brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// Its name at Debian.
    pub(super) name: &'static str,
    /// What is missed, for people on another distribution.
    pub(super) brings: &'static str,
}

/// Installs without starting services: an engine or a Prometheus that merely lies there is wanted here.
///
/// The shell removes the guard itself, also when it is interrupted; one that somebody else put there stays.
const INSTALL: &str = r#"
guard=/usr/sbin/policy-rc.d
mark='# put here by cargo xtask setup while it installs packages'
if [ ! -e "$guard" ] || grep -qF "$mark" "$guard"; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$guard"
    chmod 755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2 || echo 'setup: the package lists are not up to date' >&2
apt-get install --quiet=2 --yes --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
"#;

/// Whether this machine has apt.
pub(super) fn is_here() -> bool {
    find("apt-get").is_some()
}

/// Whether apt knows `package`, by the lists it has.
pub(super) fn offers(package: &str) -> bool {
    let known = Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    known.is_ok_and(|status| status.success())
}

/// Installs `packages` and gives back what stays missing.
pub(super) fn install(packages: &[Package]) -> Vec<String> {
    if packages.is_empty() {
        return Vec::new();
    }
    let missing: BTreeSet<&str> = packages.iter().map(|package| package.brings).collect();
    let missing = Vec::from_iter(missing).join(", ");
    if !is_here() {
        return vec![format!("install {missing} with this system's package manager")];
    }
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name).collect();
    let names = Vec::from_iter(names);
    match as_root(&names) {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("{error:#}")],
    }
}

fn as_root(names: &[&str]) -> Result<()> {
    say(&format!("apt-get install {}", names.join(" ")));
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else {
        ensure!(
            find("sudo").is_some(),
            "as root, run: apt-get install {}",
            names.join(" ")
        );
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    };
    let status = command
        .args(["-c", INSTALL, "install"])
        .args(names)
        .stdin(Stdio::inherit())
        .status()
        .context("start apt-get")?;
    ensure!(
        status.success(),
        "apt-get could not install {}: {status}",
        names.join(" ")
    );
    Ok(())
}

/// Whether a file that a package of Debian's would bring is here.
pub(super) fn has_file(path: &str) -> bool {
    Path::new(path).exists()
}
