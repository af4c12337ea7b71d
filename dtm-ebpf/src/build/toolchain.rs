//! Finding a compiler for the BPF target.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::bail;

use super::environment::scrub;

/// A cargo and rustc that can build for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// A distribution's compiler that ships `core` compiled for the BPF target.
    Precompiled {
        /// Its root, under which `lib/rustlib` is.
        sysroot: PathBuf,
    },
    /// rustup's nightly with the sources of `core`, which cargo compiles along.
    BuildStd {
        /// Its root, under which `lib/rustlib` is.
        sysroot: PathBuf,
    },
}

impl Toolchain {
    /// Finds what works without asking: the distribution's compiler, else rustup's nightly.
    ///
    /// # Errors
    ///
    /// Where there is neither, with what installs one.
    pub fn find(target: &str) -> anyhow::Result<Self> {
        if let Some(sysroot) = precompiled(target) {
            return Ok(Self::Precompiled { sysroot });
        }
        if let Some(sysroot) = build_std() {
            return Ok(Self::BuildStd { sysroot });
        }
        bail!(
            "no Rust compiler for {target} here: run `cargo xtask setup`, or `rustup toolchain install nightly --component \
             rust-src`"
        )
    }

    /// A cargo command of this toolchain, free of the outer build's environment.
    pub fn cargo(&self, subcommand: &str) -> Command {
        self.command("/usr/bin/cargo", subcommand)
    }

    /// Its clippy, in the same way.
    pub fn clippy(&self) -> Command {
        // Found by cargo, `cargo clippy` would be that of rustup, which has no `core` for the target.
        self.command("/usr/bin/cargo-clippy", "clippy")
    }

    fn command(&self, program: &str, subcommand: &str) -> Command {
        let mut command;
        match self {
            Self::Precompiled { .. } => {
                command = Command::new(program);
                scrub(&mut command);
                command
                    .arg(subcommand)
                    .env("CARGO", "/usr/bin/cargo")
                    .env("RUSTC", "/usr/bin/rustc")
                    // A released compiler takes the target's unstable features only so.
                    .env("RUSTC_BOOTSTRAP", "1");
            }
            Self::BuildStd { .. } => {
                command = Command::new("rustup");
                scrub(&mut command);
                command.args(["run", "nightly", "cargo", subcommand, "-Zbuild-std=core"]);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// Where the compiler and its library are.
    pub fn sysroot(&self) -> &Path {
        match self {
            Self::Precompiled { sysroot } | Self::BuildStd { sysroot } => sysroot,
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Precompiled { .. } => f.write_str("/usr/bin/rustc and its compiled core"),
            Self::BuildStd { .. } => f.write_str("rustup's nightly and -Zbuild-std"),
        }
    }
}

/// The sysroot of /usr/bin/rustc, if there is a cargo beside it and a compiled `core` for `target`.
fn precompiled(target: &str) -> Option<PathBuf> {
    if !Path::new("/usr/bin/cargo").is_file() {
        return None;
    }
    let mut rustc = Command::new("/usr/bin/rustc");
    rustc.env("RUSTC_BOOTSTRAP", "1");
    let sysroot = sysroot(&mut rustc)?;
    let libraries = sysroot.join("lib/rustlib").join(target).join("lib");
    let has_core = fs::read_dir(libraries).ok()?.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name();
        let name = Path::new(&name);
        name.extension().is_some_and(|extension| extension == "rlib")
            && name.to_string_lossy().starts_with("libcore-")
    });
    has_core.then_some(sysroot)
}

/// The sysroot of rustup's nightly, if it has the sources of `core`.
fn build_std() -> Option<PathBuf> {
    let sysroot = sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]))?;
    sysroot
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
        .then_some(sysroot)
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    scrub(rustc);
    let output = rustc
        .args(["--print", "sysroot"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim_end()))
}
