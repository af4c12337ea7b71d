//! What cargo installs: subcommands and rustup's components.

use std::{
    env,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{programs::find, say};
use crate::workspace;

const DENY_VERSION: &str = "0.20.2";

/// `cargo install` of one exact version; `adjust` adds what it needs.
pub(super) fn install(package: &str, version: &str, adjust: impl FnOnce(&mut Command)) -> Result<()> {
    let mut command = workspace::cargo();
    command
        .args(["install", "--locked", "--quiet", package, "--version", version])
        // Outside of the workspace: its configuration and toolchain are not the tool's.
        .current_dir(env::temp_dir());
    adjust(&mut command);
    let status = command
        .status()
        .with_context(|| format!("start cargo install {package}"))?;
    ensure!(
        status.success(),
        "cargo install {package} --version {version} failed: {status}"
    );
    Ok(())
}

/// cargo-deny, of whatever version is there.
pub(super) fn ensure_deny() -> Result<()> {
    if answers(workspace::cargo().args(["deny", "--version"])) {
        return Ok(());
    }
    say(&format!("cargo install cargo-deny {DENY_VERSION} (some minutes)"));
    // It runs for seconds: to optimize it takes longer than it will ever save.
    install("cargo-deny", DENY_VERSION, |command| {
        command.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0");
    })
}

/// rustfmt and clippy of the compiler that builds everything but the kernel side.
pub(super) fn ensure_components() -> Result<()> {
    for component in ["fmt", "clippy"] {
        if answers(workspace::cargo().args([component, "--version"])) {
            continue;
        }
        let name = if component == "fmt" { "rustfmt" } else { component };
        if find("rustup").is_none() {
            bail!("install {name} for your Rust compiler");
        }
        say(&format!("rustup component add {name}"));
        let status = Command::new("rustup").args(["component", "add", name]).status();
        let status = status.context("start rustup")?;
        ensure!(status.success(), "rustup component add {name} failed: {status}");
    }
    Ok(())
}

fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
