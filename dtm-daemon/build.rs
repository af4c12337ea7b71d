//! Compiles the kernel side and leaves it in `OUT_DIR/dtm-kernel`, from where `dtm_daemon::bpf` embeds it.

use std::{env, path::PathBuf};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    for input in dtm_ebpf::inputs() {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    for variable in dtm_ebpf::SKIP_VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out_dir = env::var_os("OUT_DIR").context("OUT_DIR is not set: this is a build script")?;
    dtm_ebpf::build(&PathBuf::from(out_dir))?;
    Ok(())
}
