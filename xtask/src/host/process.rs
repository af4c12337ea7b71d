//! Processes that end with their owner.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::poll::eventually;

const GRACE: Duration = Duration::from_secs(10);
const LAST_LINES: usize = 15;
const AFTER_KILL: Duration = Duration::from_secs(5);

/// A started process: asked to end when dropped (SIGTERM), then made to (SIGKILL).
pub struct Running {
    child: Child,
    program: String,
    log: Option<PathBuf>,
}

impl Running {
    /// Starts `command` as it is.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let program = describe(command);
        let child = command.spawn().with_context(|| format!("start {program}"))?;
        Ok(Self {
            child,
            program,
            log: None,
        })
    }

    /// Starts `command` with both its outputs appended to the file at `log`.
    pub fn spawn_logged(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        let errors = file.try_clone().context("share the log")?;
        let mut running = Self::spawn(command.stdin(Stdio::null()).stdout(file).stderr(errors))?;
        running.log = Some(log.to_path_buf());
        Ok(running)
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its standard streams.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// All it has written so far, where it was started with a log; else nothing.
    pub fn log(&self) -> String {
        let bytes = self.log.as_ref().and_then(|log| std::fs::read(log).ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// `error` with the end of the log, where whatever went wrong is likely to be told.
    pub fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        anyhow!("{error:#}; it said:\n{end}")
    }

    /// How it ended, or `None` while it runs.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("wait for {}", self.program))
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.program);
        eventually(timeout, &what, || self.try_wait())
    }

    /// Sends `signal`; one that has ended already is left alone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Until it was waited for, its id belongs to nobody else.
        if self.try_wait()?.is_none()
            && let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, signal).with_context(|| format!("signal {}", self.program))?;
        }
        Ok(())
    }

    /// Asks it to end, waits, and makes it end when it does not.
    ///
    /// # Errors
    ///
    /// When it is still there after SIGKILL.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.stop_within(GRACE)
    }

    /// As [`stop`](Self::stop), with another time to end by itself.
    pub fn stop_within(&mut self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        if let Ok(status) = self.wait(grace) {
            return Ok(status);
        }
        self.kill()
    }

    /// Ends it at once.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait(AFTER_KILL)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { child, program, log } = self;
        let mut out = f.debug_struct("Running");
        out.field("child", &child.id())
            .field("program", program)
            .field("log", log)
            .finish()
    }
}

/// Runs `command` to its end and gives its standard output.
///
/// # Errors
///
/// With what it wrote to standard error, when it could not be started or failed.
pub fn run(command: &mut Command) -> Result<String> {
    let program = describe(command);
    let output = command.stdin(Stdio::null()).output();
    output_of(&program, &output.with_context(|| format!("start {program}"))?)
}

/// The standard output of a program that succeeded.
pub(super) fn output_of(program: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}: {}", output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a person would have typed: without the part that enters the namespaces.
pub(super) fn describe(command: &Command) -> String {
    let all: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    let entered = all.first().is_some_and(|program| *program == "sh");
    let end = all.iter().position(|word| entered && *word == "--");
    let typed = end.map_or(&all[..], |at| &all[at + 1..]);
    typed
        .iter()
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
