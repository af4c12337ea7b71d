//! The compiler and the linker of the kernel side.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use dtm_ebpf::Toolchain;

use super::{
    apt::{self, Package},
    cargo, say,
};

/// The linker's version, and the LLVM that it has to share with Debian's compiler.
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
const LINKER: [&str; 4] = ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev"];

/// What apt can bring of the compiler, of its clippy and of what the linker is built with.
pub(super) fn missing_packages(with_clippy: bool) -> Vec<Package> {
    let mut packages = Vec::new();
    if dtm_ebpf::skips() || !apt::is_here() {
        return packages;
    }
    let debian = |name| Package {
        name,
        brings: "the kernel side's compiler and linker",
    };
    let toolchain = Toolchain::find(dtm_ebpf::target()).ok();
    // Elsewhere than at Debian these packages do not exist, and rustup's nightly is the way.
    if toolchain.is_none() && COMPILER.iter().all(|name| apt::offers(name)) {
        packages.extend(COMPILER.map(debian));
    }
    let will_be_debians = toolchain.is_none() && !packages.is_empty();
    let is_debians = will_be_debians || matches!(toolchain, Some(Toolchain::Precompiled { .. }));
    if with_clippy && is_debians && !apt::has_file("/usr/bin/cargo-clippy") {
        packages.push(debian("rust-web-clippy"));
    }
    if dtm_ebpf::linker().is_err() && LINKER.iter().all(|name| apt::offers(name)) {
        packages.extend(LINKER.map(debian));
    }
    packages
}

/// Builds the linker if there is none, and insists on a compiler.
pub(super) fn ensure() -> Result<()> {
    if dtm_ebpf::skips() {
        return Ok(());
    }
    if dtm_ebpf::linker().is_err() {
        if !Path::new(LLVM).is_dir() {
            bail!(
                "install bpf-linker {LINKER_VERSION}: a released binary on PATH, or `cargo install bpf-linker` with the \
                 LLVM of your nightly"
            );
        }
        say(&format!("cargo install bpf-linker {LINKER_VERSION} (a minute)"));
        cargo::install("bpf-linker", LINKER_VERSION, |command| {
            command
                .env("LLVM_PREFIX", LLVM)
                .args(["--no-default-features", "--features", "llvm-22"]);
        })?;
    }
    if Toolchain::find(dtm_ebpf::target()).is_err() {
        bail!("install rustup's nightly: rustup toolchain install nightly --component rust-src");
    }
    Ok(())
}

/// The kernel side is linted by the clippy of its own compiler.
pub(super) fn ensure_clippy() -> Result<()> {
    if dtm_ebpf::skips() {
        return Ok(());
    }
    let toolchain = Toolchain::find(dtm_ebpf::target())?;
    let mut clippy = toolchain.clippy();
    let found = clippy.arg("--version").env_remove("RUSTFLAGS").output();
    let found = found.with_context(|| format!("start {}", clippy.get_program().display()));
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!("install clippy for the kernel side's compiler, {toolchain}"),
    }
}
