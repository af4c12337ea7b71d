//! `cargo xtask setup`: what building, running and testing need and this machine lacks.
//!
//! Whatever is there is left alone, wherever it came from: what counts is the program, not the package.

mod apt;
mod cargo;
mod engine;
mod kernel_side;
mod kernels;
mod node_exporter;
mod programs;

use std::{
    panic::resume_unwind,
    thread::{self, JoinHandle},
};

use anyhow::{Result, bail};

/// Install what is missing, and say what is done.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What the machine is to be ready for.
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value_t = Need::All)]
    need: Need,
}

/// What a machine is to be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Need {
    /// Compiling the daemon with its kernel side.
    Build,
    /// Compiling, and an engine for the demo.
    Run,
    /// Compiling, and what the tests judge dtm by.
    Test,
    /// Compiling, what the tests need, and what dtm is measured beside.
    Bench,
    /// Compiling, formatting, linting and auditing.
    Check,
    /// All of it.
    All,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure(options.need)?;
    println!("setup: everything is there");
    Ok(())
}

/// Makes the machine ready for `need`; without a word where it is.
///
/// # Errors
///
/// With one line for everything that is missing and cannot be installed from here.
pub(crate) fn ensure(need: Need) -> Result<()> {
    begin(need).finish()
}

/// Makes the machine ready for compiling, and goes on with the rest beside what the caller does next.
pub(crate) fn begin(need: Need) -> Underway {
    let (runs, tests, checks) = match need {
        Need::Build => (false, false, false),
        Need::Run => (true, false, false),
        Need::Test | Need::Bench => (true, true, false),
        Need::Check => (false, false, true),
        Need::All => (true, true, true),
    };
    let mut packages = kernel_side::missing_packages(checks);
    if runs {
        packages.extend(programs::missing(programs::RUN));
    }
    if tests {
        packages.extend(programs::missing(programs::TEST));
        packages.extend(engine::missing_packages());
    }
    let mut lacking = apt::install(&packages);
    lacking.extend(errors([kernel_side::ensure()]));
    if checks {
        lacking.extend(errors([
            kernel_side::ensure_clippy(),
            cargo::ensure_components(),
            cargo::ensure_deny(),
        ]));
    }
    let rest = thread::spawn(move || {
        let mut lacking = Vec::new();
        if tests {
            lacking.extend(errors([engine::ensure(), kernels::ensure()]));
        }
        if matches!(need, Need::Bench | Need::All) {
            lacking.extend(errors([node_exporter::ensure()]));
        }
        lacking
    });
    Underway { lacking, rest }
}

fn errors<const N: usize>(results: [Result<()>; N]) -> impl Iterator<Item = String> {
    let errors = results.into_iter().filter_map(Result::err);
    errors.map(|error| format!("{error:#}"))
}

/// What goes on being installed.
pub(crate) struct Underway {
    /// What could not be installed before.
    lacking: Vec<String>,
    rest: JoinHandle<Vec<String>>,
}

impl Underway {
    /// Waits for all of it.
    ///
    /// # Errors
    ///
    /// As [`ensure`].
    pub(crate) fn finish(self) -> Result<()> {
        let Self { mut lacking, rest } = self;
        lacking.extend(rest.join().unwrap_or_else(|panic| resume_unwind(panic)));
        if lacking.is_empty() {
            return Ok(());
        }
        bail!(
            "not everything can be installed from here: {}",
            lacking.join("; ")
        )
    }
}

/// One line of progress.
fn say(what: &str) {
    println!("setup: {what}");
}
