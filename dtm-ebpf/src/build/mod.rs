//! Compiles the kernel side with an inner cargo, for the daemon's build script and for `cargo xtask build-ebpf`.

mod environment;
mod linker;
mod strip;
mod toolchain;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

pub use environment::cargo_home;
pub use linker::linker;
pub use toolchain::Toolchain;

/// Name of the object inside the output directory.
const OBJECT: &str = "dtm-kernel";

/// What the kernel side is built with.
const FEATURES: &str = if cfg!(feature = "other-layout") {
    "kernel,other-layout"
} else if cfg!(feature = "other-program") {
    "kernel,other-program"
} else {
    "kernel"
};

/// With one of these set to anything but `0`, an empty object stands in: enough to lint the daemon, not to run it.
///
/// The second one is what aya's own build scripts listen to.
pub const SKIP_VARIABLES: [&str; 2] = ["DTM_EBPF_SKIP", "AYA_BUILD_SKIP"];

/// Builds the kernel side and returns the path of the object, which is in `out_dir`.
///
/// The inner cargo has a [`target_dir`] of its own: the outer one holds the lock of its.
///
/// # Errors
///
/// Those of [`tools`]; and where the compiler refuses the sources, after what it says on standard error.
pub fn build(out_dir: &Path) -> anyhow::Result<PathBuf> {
    let object = out_dir.join(OBJECT);
    fs::create_dir_all(out_dir).with_context(|| format!("create {}", out_dir.display()))?;
    if skips() {
        fs::write(&object, []).with_context(|| format!("write {}", object.display()))?;
        return Ok(object);
    }
    let target = target();
    let (toolchain, linker) = tools()?;
    let target_dir = target_dir(out_dir);

    let mut cargo = toolchain.cargo("build");
    environment::set_profile(&mut cargo);
    let status = cargo
        .args(["--package", "dtm-ebpf", "--bin", OBJECT, "--features", FEATURES])
        .args(["--release", "--target", target])
        .arg("--target-dir")
        .arg(&target_dir)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            environment::rustflags(&linker, toolchain.sysroot()),
        )
        .current_dir(workspace())
        .status()
        .with_context(|| format!("run {}", cargo.get_program().display()))?;
    ensure!(
        status.success(),
        "the kernel side does not compile with {toolchain}: {status}"
    );

    let built = target_dir.join(target).join("release").join(OBJECT);
    let compiled = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    write_if_changed(&object, &strip::without_dwarf(&compiled)?)
        .with_context(|| format!("write {}", object.display()))?;
    Ok(object)
}

/// The compiler and the linker that [`build`] uses.
///
/// # Errors
///
/// Where one is missing, in one line with what to install.
pub fn tools() -> anyhow::Result<(Toolchain, PathBuf)> {
    Ok((Toolchain::find(target())?, linker()?))
}

/// Whether an empty object is asked for instead of the kernel side.
pub fn skips() -> bool {
    SKIP_VARIABLES
        .iter()
        .filter_map(env::var_os)
        .any(|value| !value.is_empty() && value != "0")
}

/// Every file and directory that the object is made from, for `cargo::rerun-if-changed`.
pub fn inputs() -> Vec<PathBuf> {
    let workspace = workspace();
    let mut inputs: Vec<PathBuf> = [
        "Cargo.lock",
        "Cargo.toml",
        "dtm-common/Cargo.toml",
        "dtm-common/src",
        "dtm-ebpf/Cargo.toml",
        "dtm-ebpf/src",
    ]
    .iter()
    .map(|path| workspace.join(path))
    .collect();
    inputs.extend(linker());
    inputs
}

/// The BPF target in the byte order of the machine the object is for: a build script's target, else this machine.
pub fn target() -> &'static str {
    match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        Err(_) if cfg!(target_endian = "big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    }
}

/// Where everything for the BPF target is compiled: one directory for all profiles of the outer cargo, inside of its
/// target directory if `inside` is in one.
pub fn target_dir(inside: &Path) -> PathBuf {
    // cargo keeps this file at its top; how deep a build script's directory is in it, cargo may change.
    let target = inside
        .ancestors()
        .find(|directory| directory.join(".rustc_info.json").is_file());
    target.unwrap_or(inside).join("bpf-target")
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// An unchanged object keeps its time of change, and what embeds it need not be compiled again.
fn write_if_changed(path: &Path, contents: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    fs::write(path, contents)
}
