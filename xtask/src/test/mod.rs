//! `cargo xtask test`: every suite, cheapest first, each by cargo's own test runner.

mod suite;
mod tally;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    panic::resume_unwind,
    process::{Command, Stdio},
    thread::{self, Scope},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    check::seconds,
    image,
    setup::{self, Need},
    workspace,
};
use suite::Suite;
use tally::Tally;

/// Run the tests: all suites, or those named.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The suites to run, in the order they have in `--list`.
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
    /// Name the suites and end.
    #[arg(long)]
    list: bool,
    /// Run them this many times over.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// For the test programs themselves, such as a part of a test's name.
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let all = suite::discover()?;
    if options.list {
        for suite in &all {
            println!("{}", suite.name());
        }
        return Ok(());
    }
    let suites = suite::choose(all, &options.suites)?;
    let needs_root = suites.iter().any(Suite::needs_root);
    let runner = if needs_root { root_runner()? } else { Vec::new() };
    let setup = setup::begin(if needs_root { Need::Test } else { Need::Build });
    // Where something is missing, that is the first error, not what does not compile without it.
    let built = build(&suites);
    setup.finish()?;
    built?;
    thread::scope(|scope| run_all(&suites, options, &runner, scope))
}

/// Runs the suites one after another, and makes what a late one needs beside those before it.
fn run_all<'scope>(
    suites: &[Suite],
    options: &Options,
    runner: &[String],
    scope: &'scope Scope<'scope, '_>,
) -> Result<()> {
    let needs_image = |suite: &Suite| suite.name() == "image";
    let mut image = suites
        .iter()
        .any(needs_image)
        .then(|| scope.spawn(image::make_for_tests));
    let packets = if suites.iter().any(|suite| suite.name() == "kernels") {
        Some(suite::program("packets")?)
    } else {
        None
    };

    let mut total = Tally::default();
    let mut lines = Vec::new();
    for turn in 1..=options.times {
        for suite in suites {
            if needs_image(suite)
                && let Some(making) = image.take()
            {
                making.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            let start = Instant::now();
            let mut tally = Tally::default();
            for mut command in suite.commands(runner, &options.arguments) {
                // What the suite `kernels` runs on other kernels.
                command.envs(packets.iter().map(|program| ("DTM_PACKETS", program)));
                tally += run_and_count(command)?;
            }
            let turn = if options.times > 1 {
                format!(" ({turn})")
            } else {
                String::new()
            };
            let line = format!("{}{turn}: {tally} in {}", suite.name(), seconds(start.elapsed()));
            println!("==> {line}");
            lines.push(line);
            total += tally;
        }
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    // The last line, and exactly this form: people and machines look for it.
    println!("{} passed, {} failed", total.passed, total.failed);
    ensure!(total.failed == 0, "{} failed", total.failed);
    ensure!(total.passed > 0, "no test ran");
    Ok(())
}

/// Everything once, and the daemon that the suites start, so that their times are their own.
fn build(suites: &[Suite]) -> Result<()> {
    let start = Instant::now();
    let mut commands = Vec::new();
    if suites.iter().any(Suite::needs_root) {
        let mut daemon = workspace::cargo();
        daemon.args(["build", "--quiet", "--workspace", "--bins"]);
        commands.push(daemon);
    }
    for suite in suites {
        commands.push(suite.build());
    }
    let compile = |mut command: Command| {
        let status = command.stdin(Stdio::null()).status().context("start cargo")?;
        ensure!(status.success(), "the tests do not compile: {status}");
        Ok(())
    };
    commands.into_iter().try_for_each(compile)?;
    for suite in suites {
        for program in suite.programs() {
            println!("==> {program}, for {}", suite.name());
            compile(suite::build_program(program))?;
        }
    }
    println!("==> built in {}", seconds(start.elapsed()));
    Ok(())
}

/// What runs a test program as root: nothing where this is root already, else sudo with this environment.
fn root_runner() -> Result<Vec<String>> {
    if rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let sudo = Command::new("sudo").arg("--validate").status();
    if !sudo.is_ok_and(|status| status.success()) {
        bail!("these suites need root: run this as root, or install sudo");
    }
    let mut runner = ["sudo", "--preserve-env", "env"].map(str::to_owned).to_vec();
    // sudo would put its own PATH in the place of the one that has the tools, and root's Go is not the user's.
    runner.push(format!("PATH={}", std::env::var("PATH").context("read PATH")?));
    runner.extend(xtask::host::go_programs().map(|place| format!("GOBIN={}", place.display())));
    Ok(runner)
}

/// Shows what a test run says, and counts along.
fn run_and_count(mut command: Command) -> Result<Tally> {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let output = process.stdout.take().context("cargo test has no output")?;
    let mut tally = Tally::default();
    let mut shown = std::io::stdout();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the output of cargo test")?;
        shown.write_all(&line)?;
        shown.write_all(b"\n")?;
        tally.count(&String::from_utf8_lossy(&line));
    }
    let status = process.wait().context("wait for cargo test")?;
    if !status.success() && tally.failed == 0 {
        // A crash has no result line; it is a failure all the same.
        eprintln!("a test program ended with {status} before it told its results");
        tally.failed = 1;
    }
    Ok(tally)
}
