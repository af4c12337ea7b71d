//! The dtm binary.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use dtm_daemon::config::{Config, LogFormat, Refusal};
use tracing_subscriber::EnvFilter;

/// What a shell is told of a wrong command line (`EX_USAGE`).
const USAGE: u8 = 64;

/// Almost all of the daemon waits: two threads serve a scrape beside everything else.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let config = match Config::load() {
        Ok(config) => config,
        Err(Refusal::Answer(text)) => {
            // Whoever closed the pipe has read enough.
            drop(io::stdout().write_all(text.as_bytes()));
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Usage(problem)) => {
            complain(&problem);
            return ExitCode::from(USAGE);
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    log(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(dtm_daemon::serve::run(config))
}

fn log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(&config.log_filter)
        .context("read the log filter")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let installed = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("start the log: {error}"))
}

/// One line on standard error, which may be closed.
fn complain(problem: &str) {
    let line: Vec<_> = problem.split_whitespace().collect();
    drop(writeln!(io::stderr(), "dtm: {}", line.join(" ")));
}
