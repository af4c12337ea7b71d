//! Compiles the kernel side and leaves it in `OUT_DIR/dtm-kernel`, from where `dtm_daemon::bpf` embeds it.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

fn main() -> ExitCode {
    for input in dtm_ebpf::inputs() {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    for variable in dtm_ebpf::SKIP_VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if !dtm_ebpf::skips()
        && let Err(error) = dtm_ebpf::tools()
    {
        // With a successful end cargo shows this one line; with another end, everything said here.
        println!("cargo::error={error:#}");
        return ExitCode::SUCCESS;
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> anyhow::Result<()> {
    let out_dir = env::var_os("OUT_DIR").context("OUT_DIR is not set: this is a build script")?;
    dtm_ebpf::build(&PathBuf::from(out_dir)).map(drop)
}
