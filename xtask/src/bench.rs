//! `cargo xtask bench`: what dtm costs on this machine.

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Need},
    workspace,
};

/// Measure what dtm costs here and print it: ratios of one run, each with its spread.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The parts to measure, all of them unless some are named: programs, views, uplinks, connections,
    /// births, groups, scrapes, takeover.
    #[arg(value_name = "PART")]
    parts: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Need::Bench)?;
    // The benchmark starts the daemon that lies beside it.
    cargo("build --release --package dtm-daemon --bin dtm", &[])?;
    cargo("bench --package dtm-tests --bench costs --", &options.parts)
}

fn cargo(arguments: &str, further: &[String]) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(arguments.split(' ')).args(further);
    let status = command
        .status()
        .with_context(|| format!("run cargo {arguments}"))?;
    if !status.success() {
        bail!("cargo {arguments}: {status}");
    }
    Ok(())
}
