//! Dashboards and alerts ask for what dtm really exposes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::dashboards::{
    Dashboard, deploy,
    promql::{self, Query},
};

use crate::alerts::alerts;

/// What Prometheus itself says of each target.
const OF_PROMETHEUS: [&str; 2] = ["up", "scrape_duration_seconds"];
/// What Prometheus adds to every series.
const OF_TARGET: [&str; 2] = ["job", "instance"];

/// Every metric with its labels: the rows of docs/metrics.md, which a test of the daemon keeps true.
fn families() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let path = deploy().join("../docs/metrics.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let families: BTreeMap<_, _> = text.lines().filter_map(family).collect();
    ensure!(!families.is_empty(), "no row of a metric in {}", path.display());
    Ok(families)
}

/// `| metric | type | unit | labels | meaning |`, names in backticks.
fn family(row: &str) -> Option<(String, BTreeSet<String>)> {
    let mut cells = row.strip_prefix("| `")?.split('|').map(str::trim);
    let name = cells.next()?.trim_matches('`').to_owned();
    let labels = cells
        .nth(2)?
        .split(',')
        .map(|label| label.trim().trim_matches('`').to_owned());
    Some((name, labels.filter(|label| !label.is_empty()).collect()))
}

/// The labels of a sample, whose name is its family's, or one of the three that a histogram's samples have.
fn labels_of<'a>(
    metric: &str,
    families: &'a BTreeMap<String, BTreeSet<String>>,
) -> Option<BTreeSet<&'a str>> {
    let of = |family: &str| Some(families.get(family)?.iter().map(String::as_str).collect());
    let histogram = |end| metric.strip_suffix(end).and_then(of);
    let buckets = || {
        let mut labels: BTreeSet<_> = histogram("_bucket")?;
        labels.insert("le");
        Some(labels)
    };
    of(metric)
        .or_else(buckets)
        .or_else(|| histogram("_sum"))
        .or_else(|| histogram("_count"))
}

fn check(place: &str, query: &Query, families: &BTreeMap<String, BTreeSet<String>>) {
    let mut labels: BTreeSet<&str> = OF_TARGET.into();
    labels.extend(query.made.iter().map(String::as_str));
    for selector in &query.selectors {
        let Some(known) = labels_of(&selector.metric, families) else {
            assert!(
                OF_PROMETHEUS.contains(&selector.metric.as_str()),
                "{place}: there is no {}",
                selector.metric
            );
            continue;
        };
        for (label, ..) in &selector.matchers {
            let there = known.contains(label.as_str()) || OF_TARGET.contains(&label.as_str());
            assert!(there, "{place}: {} has no label {label}", selector.metric);
        }
        labels.extend(known);
    }
    for label in &query.labels {
        assert!(
            labels.contains(label.as_str()),
            "{place}: no metric of this query has a label {label}"
        );
    }
}

#[test]
fn dashboards_use_names_that_exist() -> Result<()> {
    let families = families()?;
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            check(&target.place(), &promql::parse(&target.expression)?, &families);
        }
        for variable in dashboard.variables() {
            let query = variable["query"].as_str().unwrap_or_default();
            let Some(inner) = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'))
            else {
                continue;
            };
            let Some((selector, label)) = inner.rsplit_once(", ") else {
                panic!("{query} has no label")
            };
            let mut parsed = promql::parse(selector)?;
            parsed.labels.insert(label.to_owned());
            check(query, &parsed, &families);
        }
    }
    Ok(())
}

/// A label the aggregation took away would stand in the legend as nothing.
#[test]
fn legends_show_labels_that_are_left() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            let query = promql::parse(&target.expression)?;
            for label in target.legend_labels() {
                assert!(
                    query.kept.contains(label),
                    "{}: {} has no {label} left",
                    dashboard.name,
                    target.place()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn alerts_use_names_that_exist() -> Result<()> {
    let families = families()?;
    for alert in alerts()? {
        let expression = alert["expr"].as_str().unwrap_or_default();
        check(
            &alert["alert"].to_string(),
            &promql::parse(expression)?,
            &families,
        );
    }
    Ok(())
}
