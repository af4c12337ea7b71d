//! Judges of the metrics' text that are not dtm's own: promtool and the reference parser of OpenMetrics.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use xtask::host::run;

/// The version of the Python package `prometheus-client`, whose OpenMetrics parser is the strict one.
const PARSER_VERSION: &str = "0.26.0";

/// What `promtool check metrics` finds wrong with text 0.0.4.
pub(crate) fn promtool_finds(text: &[u8]) -> Result<String> {
    said_about(Command::new("promtool").args(["check", "metrics"]), text)
}

/// The reference parser of OpenMetrics.
#[derive(Debug)]
pub(crate) struct OpenMetricsParser {
    python: PathBuf,
}

impl OpenMetricsParser {
    /// Installs it under `target`, unless it is there.
    pub(crate) fn installed(target: &Path) -> Result<Self> {
        let directory = target.join(format!("prometheus-client-{PARSER_VERSION}"));
        let (python, installed) = (directory.join("bin/python3"), directory.join("installed"));
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let lock = File::create(directory.join("lock")).context("create the lock of the parser's folder")?;
        lock.lock()
            .context("wait for another test run to install the parser")?;
        if !installed.exists() {
            let package = format!("prometheus-client=={PARSER_VERSION}");
            run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-deps", &package]))?;
            File::create(&installed).context("note that the parser is installed")?;
        }
        Ok(Self { python })
    }

    /// What it finds wrong with `text`, whose lines end with a line feed and with nothing else.
    pub(crate) fn finds(&self, text: &[u8]) -> Result<String> {
        let program = "import sys\n\
            from prometheus_client.openmetrics.parser import text_fd_to_metric_families\n\
            sys.stdin.reconfigure(newline='\\n')\n\
            samples = sum(len(family.samples) for family in text_fd_to_metric_families(sys.stdin))\n\
            sys.exit(0 if samples else 'no sample')\n";
        said_about(Command::new(&self.python).args(["-c", program]), text)
    }
}

/// Empty where the command has nothing to say about `text` and ends well.
fn said_about(command: &mut Command, text: &[u8]) -> Result<String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().with_context(|| format!("run {command:?}"))?;
    // Neither says anything before it has read everything, so that no pipe fills up; one that has seen enough before
    // the end does not read on.
    let fed = process.stdin.take().context("no standard input")?.write_all(text);
    let output = process
        .wait_with_output()
        .with_context(|| format!("wait for {command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if said.is_empty() {
        fed.with_context(|| format!("feed {command:?}"))?;
    }
    if said.is_empty() && !output.status.success() {
        return Ok(format!("{command:?} ended with {}", output.status));
    }
    Ok(said)
}
