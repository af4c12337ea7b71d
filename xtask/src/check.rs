//! `cargo xtask check`: everything that can be said about the sources without running them.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use dtm_ebpf::Toolchain;

use crate::{
    setup::{self, Need},
    workspace,
};

/// Format, lints, documentation and dependencies, with every warning an error.
#[derive(clap::Args)]
pub(crate) struct Options {}

struct Step {
    name: &'static str,
    command: Command,
}

pub(crate) fn run(_options: &Options) -> Result<()> {
    setup::ensure(Need::Check)?;
    let mut failed = Vec::new();
    for Step { name, mut command } in steps()? {
        println!("==> {name}");
        let start = Instant::now();
        let status = command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let verdict = if status.success() { "ok" } else { "FAILED" };
        println!("{name}: {verdict} in {}", seconds(start.elapsed()));
        if !status.success() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Cheapest first.
fn steps() -> Result<Vec<Step>> {
    let cargo = |arguments: &[&str]| {
        let mut command = workspace::cargo();
        command.args(arguments);
        command
    };
    let mut steps = vec![Step {
        name: "fmt",
        command: cargo(&["fmt", "--all", "--check"]),
    }];
    let mut deny = vec!["bans", "licenses", "sources"];
    if can_fetch_advisories() {
        deny.insert(0, "advisories");
    } else {
        println!("the database of advisories cannot be fetched: they are not checked");
    }
    let mut command = cargo(&["deny", "--log-level", "error", "--locked", "check"]);
    command.args(deny);
    steps.push(Step {
        name: "deny",
        command,
    });
    if dtm_ebpf::skips() {
        println!("the kernel side is skipped: it is not linted");
    } else {
        steps.push(Step {
            name: "clippy (kernel side)",
            command: kernel_clippy()?,
        });
    }
    steps.push(Step {
        name: "clippy",
        command: cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-Dwarnings",
        ]),
    });
    let mut doc = cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--locked",
        "--quiet",
    ]);
    doc.env("RUSTDOCFLAGS", "-Dwarnings");
    steps.push(Step {
        name: "doc",
        command: doc,
    });
    Ok(steps)
}

/// In a run of its own: another compiler, another target.
fn kernel_clippy() -> Result<Command> {
    let target = dtm_ebpf::target();
    let mut clippy = Toolchain::find(target)?.clippy();
    clippy
        .args([
            "--package",
            "dtm-ebpf",
            "--bin",
            "dtm-kernel",
            "--features",
            "kernel",
        ])
        .args(["--release", "--locked", "--quiet", "--target", target])
        .arg("--target-dir")
        .arg(dtm_ebpf::target_dir(&workspace::target()))
        .args(["--", "-Dwarnings"])
        .current_dir(workspace::root());
    Ok(clippy)
}

/// The database lies in a git repository, which not every machine reaches.
fn can_fetch_advisories() -> bool {
    let fetched = workspace::cargo()
        .args(["deny", "--log-level", "off", "fetch", "db"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    fetched.is_ok_and(|status| status.success())
}

/// As people read it.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
