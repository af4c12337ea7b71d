//! `cargo xtask build-ebpf`: the kernel side alone.

use std::{fs, path::Path};

use anyhow::Context as _;

/// Build the kernel side alone and say what is in it.
#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(_options: &Options) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the package has a workspace")?;
    let object = dtm_ebpf::build(&root.join("target/bpf"))?;
    let size = fs::metadata(&object)?.len();
    println!("{}: {size} bytes", object.display());
    Ok(())
}
