//! What `cargo xtask bench` measures dtm beside: the usual exporter, as people run it today.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xtask::host::go_programs;

use super::{programs::find, say};

const PACKAGE: &str = "github.com/prometheus/node_exporter@v1.12.1";

/// Builds it into Go's directory of programs.
pub(super) fn ensure() -> Result<()> {
    if go_programs().is_some_and(|directory| directory.join("node_exporter").is_file()) {
        return Ok(());
    }
    ensure!(
        find("go").is_some(),
        "install Go 1.25 or later (go.dev/dl): node_exporter, which dtm is measured beside, is built from source"
    );
    say(&format!("go install {PACKAGE}"));
    let status = Command::new("go")
        .args(["install", PACKAGE])
        .env("CGO_ENABLED", "0")
        .current_dir(std::env::temp_dir())
        .status()
        .context("start go")?;
    ensure!(status.success(), "go install {PACKAGE} failed: {status}");
    Ok(())
}
