//! The process that outlives this one just long enough to clean up after it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::cgroups::{CgroupWorld, Hierarchies};
use super::poll::eventually;

const SCRIPT: &str = include_str!("warden.sh");
const CLEANING: Duration = Duration::from_secs(30);

/// Holds the namespaces of a host; ends everything in them when told to or when its owner dies.
#[derive(Debug)]
pub(super) struct Warden {
    child: Child,
    /// Closing it is the signal.
    leash: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Warden {
    /// Starts it; answers when the namespaces are there, with the id of the process that keeps them.
    pub(super) fn hold(
        name: &str,
        directory: &Path,
        world: CgroupWorld,
        hierarchies: &Hierarchies,
    ) -> Result<(Self, u32)> {
        let mut command = script("hold", name, directory, world.as_str(), hierarchies);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the host's warden")?;
        let leash = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("the warden has no output")?);
        let mut warden = Self { child, leash, output };
        let holder = warden
            .read_holder()
            .with_context(|| format!("set up the namespaces of {name}"))?;
        Ok((warden, holder))
    }

    fn read_holder(&mut self) -> Result<u32> {
        let mut said = String::new();
        loop {
            let start = said.len();
            if self.output.read_line(&mut said)? == 0 {
                bail!("{}", said.trim());
            }
            if let Some(holder) = said[start..].strip_prefix("ready ") {
                return holder.trim().parse().context("the warden gave no process id");
            }
        }
    }

    /// Has it clean up, and waits for that.
    ///
    /// # Errors
    ///
    /// With what it could not remove.
    pub(super) fn close(&mut self) -> Result<()> {
        if self.leash.take().is_none() {
            return Ok(());
        }
        let status = eventually(CLEANING, "cleaning up the host", || Ok(self.child.try_wait()?))?;
        let mut said = String::new();
        self.output
            .read_to_string(&mut said)
            .context("read from the warden")?;
        if !status.success() || !said.trim().is_empty() {
            bail!("clean up the host: {status}: {}", said.trim());
        }
        Ok(())
    }
}

/// Cleans what the host `name` left when both its owner and its warden died.
pub(super) fn clean(name: &str, directory: &Path, hierarchies: &Hierarchies) -> Result<()> {
    super::process::run(&mut script("clean", name, directory, "-", hierarchies)).map(drop)
}

fn script(mode: &str, name: &str, directory: &Path, world: &str, hierarchies: &Hierarchies) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "dtm-warden", mode, name])
        .arg(directory)
        .arg(world);
    command.arg(&hierarchies.unified).args(&hierarchies.legacy);
    // Out of the terminal's foreground group: its Ctrl-C must not reach what cleans up.
    command.process_group(0);
    command
}
