//! The alerts and Prometheus' configuration, by promtool and by what an alert owes the person it wakes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use dtm_tests::dashboards::{deploy, items, promql};
use serde_json::Value;

/// Everything that promtool is to look at in one folder.
fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let directory = deploy().join("prometheus").join(folder);
    let entries = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    if files.is_empty() {
        bail!("{} is empty", directory.display());
    }
    Ok(files)
}

fn promtool(subcommand: [&str; 2], files: &[PathBuf]) -> Result<()> {
    let output = Command::new("promtool")
        .args(subcommand)
        .args(files)
        .output()
        .context("run promtool")?;
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success(), "promtool {subcommand:?}: {said}");
    Ok(())
}

#[test]
fn promtool_takes_the_configuration() -> Result<()> {
    promtool(["check", "config"], &[deploy().join("prometheus/prometheus.yml")])
}

#[test]
fn promtool_takes_the_rules() -> Result<()> {
    promtool(["check", "rules"], &files("rules")?)
}

#[test]
fn rules_fire_when_they_should_and_only_then() -> Result<()> {
    promtool(["test", "rules"], &files("tests")?)
}

pub(crate) fn yaml(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// Every alert of every rule file.
pub(crate) fn alerts() -> Result<Vec<Value>> {
    let mut alerts = Vec::new();
    for file in files("rules")? {
        for group in items(&yaml(&file)?["groups"]) {
            alerts.extend(
                items(&group["rules"])
                    .iter()
                    .filter(|rule| rule["alert"].is_string())
                    .cloned(),
            );
        }
    }
    Ok(alerts)
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() -> Result<()> {
    for alert in alerts()? {
        let name = &alert["alert"];
        for annotation in ["summary", "description", "runbook_url"] {
            assert!(
                alert["annotations"][annotation].is_string(),
                "{name} has no {annotation}"
            );
        }
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity}"
        );
    }
    Ok(())
}

#[test]
fn every_runbook_exists() -> Result<()> {
    let root = deploy().join("..");
    for alert in alerts()? {
        let link = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let (file, anchor) = link
            .split_once('#')
            .with_context(|| format!("{link} names no section"))?;
        let text = fs::read_to_string(root.join(file)).with_context(|| format!("read {file}"))?;
        let mut headings = text.lines().filter(|line| line.starts_with('#'));
        let found = headings.any(|line| line.trim_start_matches(['#', ' ']).to_lowercase() == anchor);
        assert!(found, "{file} has no section {anchor}");
        assert_eq!(
            alert["alert"].as_str().map(str::to_lowercase).as_deref(),
            Some(anchor)
        );
    }
    Ok(())
}

#[test]
fn every_alert_is_tested_firing_and_silent() -> Result<()> {
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for file in files("tests")? {
        for test in items(&yaml(&file)?["tests"]) {
            for case in items(&test["alert_rule_test"]) {
                let name = case["alertname"].as_str().unwrap_or_default().to_owned();
                let expected = items(&case["exp_alerts"]);
                if expected.is_empty() {
                    silent.insert(name)
                } else {
                    firing.insert(name)
                };
            }
        }
    }
    for alert in alerts()? {
        let name = alert["alert"].as_str().unwrap_or_default();
        assert!(firing.contains(name), "{name} is not tested firing");
        assert!(silent.contains(name), "{name} is not tested silent");
    }
    Ok(())
}

/// `job="dtm"` is the name prometheus.yml scrapes dtm under.
#[test]
fn every_alert_looks_at_dtm_only() -> Result<()> {
    let configuration = yaml(&deploy().join("prometheus/prometheus.yml"))?;
    assert!(
        items(&configuration["scrape_configs"])
            .iter()
            .any(|scrape| scrape["job_name"] == "dtm")
    );
    for alert in alerts()? {
        let expression = alert["expr"].as_str().unwrap_or_default();
        for selector in promql::parse(expression)?.selectors {
            assert!(
                selector.matches("job", "=", "dtm"),
                "{}: {}",
                alert["alert"],
                selector.metric
            );
        }
    }
    Ok(())
}
