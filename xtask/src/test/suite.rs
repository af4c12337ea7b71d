//! Which suites there are, and how each is run.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::workspace;

/// A part of the tests with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Suite {
    /// What every crate tests on the host by itself.
    Unit,
    /// A test target of a crate, most of them of dtm-tests.
    Integration(String),
}

impl Suite {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Unit => "unit",
            Self::Integration(name) => name,
        }
    }

    /// Attaching programs, making namespaces and starting engines is root's.
    pub(super) fn needs_root(&self) -> bool {
        matches!(self, Self::Integration(_))
    }

    /// Whether its tests would meet in the kernel: a wait for RTNL or RCU is the whole machine's, and `kfree_skb` sees every
    /// namespace. Emulated machines have a kernel each.
    fn is_one_by_one(&self) -> bool {
        self.needs_root() && self.name() != "kernels"
    }

    /// Programs that it starts besides those that are built for all.
    pub(super) fn programs(&self) -> &'static [&'static str] {
        match self.name() {
            "away" => &["dtm-other-program", "dtm-other-layout"],
            _ => &[],
        }
    }

    /// Compiles it without running it.
    pub(super) fn build(&self) -> Command {
        let mut command = self.targets();
        command.args(["--no-run", "--quiet"]);
        command
    }

    /// Runs it; `runner` starts its programs, `arguments` are for them.
    pub(super) fn commands(&self, runner: &[String], arguments: &[String]) -> Vec<Command> {
        let mut command = self.targets();
        command.args(["--no-fail-fast", "--quiet"]);
        if self.needs_root() && !runner.is_empty() {
            // cargo itself stays the user's, and so does what it writes.
            let runner = serde_json::to_string(runner).unwrap_or_default();
            command
                .arg("--config")
                .arg(format!("target.'cfg(unix)'.runner={runner}"));
        }
        command.arg("--");
        if self.is_one_by_one() {
            command.arg("--test-threads=1");
        }
        command.args(arguments);
        let mut commands = vec![command];
        if *self == Self::Unit {
            let mut doc = test();
            doc.args(["--doc", "--quiet", "--no-fail-fast", "--"])
                .args(arguments);
            commands.push(doc);
        }
        commands
    }

    fn targets(&self) -> Command {
        let mut command = test();
        match self {
            Self::Unit => command.args(["--lib", "--bins"]),
            Self::Integration(name) => command.args(["--test", name]),
        };
        command
    }
}

/// Always of the whole workspace: with a part of it, features differ and everything is compiled again.
fn test() -> Command {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace"]);
    command
}

/// Builds one of [`Suite::programs`], which has a feature of dtm-tests to itself: what is built with it is another daemon.
pub(super) fn build_program(name: &str) -> Command {
    let mut command = workspace::cargo();
    command.args(["build", "--quiet", "--workspace"]);
    command.args(["--features", &feature(name), "--bin", name]);
    // Compiling each takes longer than what it would gain.
    command.args(["--config", "profile.dev.package.dtm-daemon.opt-level=0"]);
    command
}

/// The feature of a program that is called after it.
fn feature(program: &str) -> String {
    let name = program.strip_prefix("dtm-").unwrap_or(program);
    format!("dtm-tests/{name}")
}

/// The program of the test target `name`, compiled.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let mut command = Suite::Integration(name.to_owned()).targets();
    command.args(["--no-run", "--quiet", "--message-format=json"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo test")?;
    if !output.status.success() {
        bail!("the tests do not compile: {}", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_wanted = message["target"]["name"] == json!(name);
        let executable = message["executable"].as_str().filter(|_| is_wanted)?;
        Some(PathBuf::from(executable))
    });
    program.with_context(|| format!("cargo compiled no program {name}"))
}

/// All suites: the unit tests, then the test targets in the order of the crates and of their manifests.
pub(super) fn discover() -> Result<Vec<Suite>> {
    let output = workspace::cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .output()
        .context("start cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata = serde_json::from_slice(&output.stdout).context("parse cargo metadata")?;
    let mut suites = vec![Suite::Unit];
    suites.extend(integration(&metadata, |path| {
        fs::read_to_string(path).with_context(|| format!("read {path}"))
    })?);
    Ok(suites)
}

/// `manifest` reads a manifest: cargo itself tells targets by name, not in their order there.
fn integration(metadata: &Value, manifest: impl Fn(&str) -> Result<String>) -> Result<Vec<Suite>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut suites = Vec::new();
    for package in packages {
        let targets = package["targets"].as_array().context("no targets")?;
        let mut names: Vec<&str> = targets
            .iter()
            .filter(|target| target["kind"] == json!(["test"]))
            .filter_map(|target| target["name"].as_str())
            .collect();
        if names.len() > 1 {
            let manifest = manifest(package["manifest_path"].as_str().context("no manifest")?)?;
            names.sort_by_key(|name| manifest.find(&format!("name = \"{name}\"")).unwrap_or(usize::MAX));
        }
        suites.extend(names.into_iter().map(|name| Suite::Integration(name.to_owned())));
    }
    Ok(suites)
}

/// Those of `all` that are named, in their own order; all where none is.
pub(super) fn choose(all: Vec<Suite>, names: &[String]) -> Result<Vec<Suite>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| !all.iter().any(|suite| suite.name() == *name))
    {
        let known: Vec<&str> = all.iter().map(Suite::name).collect();
        bail!("there is no suite {unknown}; there are {}", known.join(", "));
    }
    let chosen = all
        .into_iter()
        .filter(|suite| names.is_empty() || names.iter().any(|name| name == suite.name()));
    Ok(chosen.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<Suite> {
        let suites = names.iter().map(|name| match *name {
            "unit" => Suite::Unit,
            name => Suite::Integration(name.to_owned()),
        });
        suites.collect()
    }

    #[test]
    fn suites_keep_the_order_of_the_manifest() {
        let metadata = json!({ "packages": [
            { "targets": [{ "kind": ["bin"], "name": "dtm" }, { "kind": ["test"], "name": "usage" }] },
            { "manifest_path": "tests", "targets": [
                { "kind": ["lib"], "name": "dtm_tests" },
                { "kind": ["test"], "name": "docker" },
                { "kind": ["test"], "name": "packets" },
            ]},
        ]});
        let manifest = |path: &str| {
            assert_eq!(path, "tests");
            Ok("[[test]]\nname = \"packets\"\n[[test]]\nname = \"docker\"\n".to_owned())
        };
        let suites = integration(&metadata, manifest).unwrap();
        assert_eq!(suites, named(&["usage", "packets", "docker"]));
        assert!(integration(&json!({}), manifest).is_err());
    }

    #[test]
    fn other_dtms_are_built_for_the_suite_that_starts_them() {
        let [unit, away] = named(&["unit", "away"]).try_into().unwrap();
        assert!(unit.programs().is_empty());
        let features: Vec<_> = away.programs().iter().map(|name| feature(name)).collect();
        assert_eq!(features, ["dtm-tests/other-program", "dtm-tests/other-layout"]);
        let command = build_program("dtm-other-program");
        let arguments: Vec<_> = command.get_args().filter_map(|word| word.to_str()).collect();
        let expected = "build --quiet --workspace --features dtm-tests/other-program --bin dtm-other-program";
        assert!(arguments.join(" ").starts_with(expected), "{arguments:?}");
    }

    #[test]
    fn chosen_suites_run_once_and_cheapest_first() {
        let all = named(&["unit", "packets", "docker"]);
        let names = ["docker", "unit", "docker"].map(str::to_owned);
        assert_eq!(choose(all.clone(), &names).unwrap(), named(&["unit", "docker"]));
        assert_eq!(choose(all.clone(), &[]).unwrap(), all);
        let error = choose(all, &["dock".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "there is no suite dock; there are unit, packets, docker");
    }
}
