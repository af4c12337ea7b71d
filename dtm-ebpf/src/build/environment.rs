//! What the inner cargo sees of the outer one: nothing that would choose its compiler, flags or directories.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use super::workspace;

/// Settings of cargo itself that hold for every build on this machine.
const KEPT: [&str; 6] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_TERM_",
];

/// Variables that an outer cargo, rustup or clippy sets for its own compiler.
const REMOVED: [&str; 11] = [
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "HOST",
    "OPT_LEVEL",
    "PROFILE",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "TARGET",
];

/// Takes the outer build's choices out of the environment of `command`.
pub(super) fn scrub(command: &mut Command) {
    for name in REMOVED {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_outer = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if is_outer {
            command.env_remove(&name);
        }
    }
}

/// One profile for the kernel side, whatever the daemon is built with: the verifier sees the same program.
pub(super) fn set_profile(command: &mut Command) {
    command
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        // bpf-linker optimises over the whole program itself.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none");
}

/// The compiler's flags, separated as `CARGO_ENCODED_RUSTFLAGS` wants them: paths may hold spaces.
pub(super) fn rustflags(linker: &Path, sysroot: &Path) -> OsString {
    let mut flags = vec![
        flag("-Clinker=", linker),
        // Type information, which the daemon and bpftool read back.
        OsString::from("-Clink-arg=--btf"),
    ];
    let mut remap = |from: &Path, to: &str| {
        let mut value = flag("--remap-path-prefix=", from);
        value.push("=");
        value.push(to);
        flags.push(value);
    };
    // The object must not depend on, or tell, where it was built. The last match wins.
    if let Some(home) = cargo_home() {
        remap(&home, "cargo");
    }
    remap(sysroot, "rust");
    remap(workspace(), "dtm");
    flags.join(OsStr::new("\u{1f}"))
}

/// Where cargo keeps the sources of packages and what it installs.
pub fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = env::home_dir()?;
        Some(home.join(".cargo"))
    })
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}
