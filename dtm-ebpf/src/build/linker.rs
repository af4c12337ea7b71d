//! Finding bpf-linker.

use std::{env, path::PathBuf};

use anyhow::Context as _;

use super::environment::cargo_home;

/// The path of bpf-linker: on `PATH`, or where `cargo install` puts it.
///
/// # Errors
///
/// Where there is none, with what installs it.
pub fn linker() -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .context("bpf-linker is missing: run `cargo xtask setup`, or install bpf-linker 0.13")
}
