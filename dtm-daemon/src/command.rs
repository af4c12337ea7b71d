//! What the binary does: reads what it is asked, does that, and says how it went.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;

use crate::{
    check,
    config::{Config, HostConfig, Paths, Refusal, Task},
    detach, log, memory, serve,
};

/// What a shell is told of a wrong command line (`EX_USAGE`).
const USAGE: u8 = 64;

/// Almost all of the daemon waits: two threads serve a scrape beside everything else.
const WORKERS: usize = 2;

/// The whole program.
pub fn main() -> ExitCode {
    // Before there are threads.
    memory::share_one_heap();
    let result = match Task::load() {
        Ok(Task::Serve(config)) => start(*config).map(|()| ExitCode::SUCCESS),
        Ok(Task::Check(config)) => look(config),
        Ok(Task::Detach(paths)) => take_off(&paths),
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
    result.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Says what can be counted: success where that is everything.
fn look(config: HostConfig) -> anyhow::Result<ExitCode> {
    let report = run(check::look(config))?;
    Ok(tell(&report, report.is_complete()))
}

/// Takes off what was left: success where nothing is left any more.
fn take_off(paths: &Paths) -> anyhow::Result<ExitCode> {
    let report = run(detach::detach(paths))??;
    Ok(tell(&report, report.is_complete()))
}

/// Runs what needs no threads of its own.
fn run<T>(task: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    Ok(runtime.block_on(task))
}

fn tell(report: &impl fmt::Display, is_complete: bool) -> ExitCode {
    // Whoever closed the pipe has read enough.
    drop(io::stdout().write_all(report.to_string().as_bytes()));
    if is_complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    let limit = log::start(&config)?;
    come_first();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.spawn(limit.clone().tell());
    let result = runtime.block_on(serve::run(config));
    limit.tell_once();
    result
}

/// How much sooner than others dtm is given a processor (`nice`). It takes little of it, and mostly when a container is
/// born or ends, which is when everybody wants one: what comes too late is lost.
const NICE: i32 = -10;

/// Has every thread that is started from now on come before what can wait.
fn come_first() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "dtm waits for a processor like everybody: short lives on a busy host may be missed");
    }
}

/// One line on standard error, which may be closed.
fn complain(problem: &str) {
    let line: Vec<_> = problem.split_whitespace().collect();
    drop(writeln!(io::stderr(), "dtm: {}", line.join(" ")));
}
