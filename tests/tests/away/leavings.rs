//! What is attached and pinned in a host, and `dtm detach`.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{attached, daemon::binary, pins};
use xtask::host::Host;

/// All that dtm could leave, and what others have there. Control groups are looked at through dtm's own links and
/// programs, see [`Objects`](dtm_tests::objects::Objects).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leavings {
    holders: BTreeMap<String, Vec<String>>,
    pins: BTreeSet<String>,
}

impl Leavings {
    /// What is there now.
    pub(crate) fn of(host: &Host) -> Result<Self> {
        Ok(Self {
            holders: attached::holders(host)?,
            pins: pins::all(host)?,
        })
    }

    /// Whether dtm has pinned anything.
    pub(crate) fn has_pins_of_dtm(&self) -> bool {
        self.pins.iter().any(|pin| pin.starts_with("dtm/"))
    }
}

/// Runs `dtm detach`.
pub(crate) fn detach(host: &Host, arguments: &[&str]) -> Result<Output> {
    let mut command = host.command(binary("dtm")?);
    command
        .arg("detach")
        .args(arguments)
        .output()
        .context("run dtm detach")
}

/// Runs it, and holds it to success.
pub(crate) fn detach_everything(host: &Host) -> Result<()> {
    let Output {
        status,
        stdout,
        stderr,
    } = detach(host, &[])?;
    ensure!(
        status.success(),
        "dtm detach ended with {status}: {}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    Ok(())
}
