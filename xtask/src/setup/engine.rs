//! A current engine, built from source: distributions are years behind what people run.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::host::EngineKind;

use super::{
    apt::{self, Package},
    programs::find,
    say,
};

/// dockerd, and the runc that it needs: Debian's is too old for it.
const PROGRAMS: [(&str, &[&str]); 2] = [
    ("github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24", &[]),
    ("github.com/opencontainers/runc@v1.5.2", &["-tags", "seccomp"]),
];

/// What runc is compiled against, where it still has to be.
pub(super) fn missing_packages() -> Vec<Package> {
    let mut packages = Vec::new();
    if EngineKind::Current.is_installed() {
        return packages;
    }
    if find("pkg-config").is_none() {
        packages.push(Package {
            name: "pkg-config",
            brings: "pkg-config",
        });
    }
    if !apt::has_file("/usr/include/seccomp.h") {
        packages.push(Package {
            name: "libseccomp-dev",
            brings: "libseccomp's headers",
        });
    }
    packages
}

/// Builds it into Go's directory of programs, where the hosts of demo and tests look for it.
pub(super) fn ensure() -> Result<()> {
    if EngineKind::Current.is_installed() {
        return Ok(());
    }
    ensure!(
        find("go").is_some(),
        "install Go 1.24 or later (go.dev/dl): the tests run on a current engine, which is built from source"
    );
    for (package, arguments) in PROGRAMS {
        say(&format!("go install {package} (some minutes)"));
        let status = Command::new("go")
            .arg("install")
            .args(arguments)
            .arg(package)
            .env("CGO_ENABLED", "1")
            .current_dir(std::env::temp_dir())
            .status()
            .context("start go")?;
        ensure!(status.success(), "go install {package} failed: {status}");
    }
    Ok(())
}
