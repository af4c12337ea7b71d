//! Every query of every dashboard, asked of a real Prometheus as Grafana would ask it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use dtm_tests::dashboards::{Dashboard, Target, promql};
use xtask::host::eventually;

use crate::server::{Prometheus, SCRAPE_INTERVAL};

/// Four scrapes for the shortest rate, and some for a busy machine.
const ANSWERS_WITHIN: Duration = Duration::from_mins(1);

/// Panel and query of what answers with nothing as long as all is well.
const EMPTY_WHERE_ALL_IS_WELL: [(&str, &str); 7] = [
    ("Not covered", "A"),
    ("Trouble", "A"),
    ("Trouble", "B"),
    ("Trouble", "C"),
    ("Trouble", "D"),
    ("Trouble", "E"),
    ("Trouble", "F"),
];

/// What a person chose at the top of the dashboard.
pub(crate) struct Choice<'a> {
    pub(crate) job: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) network: &'a str,
    pub(crate) container: &'a str,
}

/// "All" in every variable, as Grafana writes it.
pub(crate) const ALL: Choice<'_> = Choice {
    job: ".+",
    instance: ".+",
    network: ".+",
    container: ".+",
};

impl Choice<'_> {
    fn substitute(&self, expression: &str) -> String {
        // Grafana's $__rate_interval: four scrapes.
        let rate_interval = format!("{}s", 4 * SCRAPE_INTERVAL.as_secs());
        promql::substitute(
            expression,
            &[
                ("__rate_interval", &rate_interval),
                ("__range", "5m"),
                ("__interval", "1s"),
                ("top", "10"),
                ("job", self.job),
                ("instance", self.instance),
                ("network", self.network),
                ("container", self.container),
            ],
        )
    }
}

/// Every query answers, with labels for its legend, and those of [`EMPTY_WHERE_ALL_IS_WELL`] with nothing.
pub(crate) fn all_answer(prometheus: &Prometheus, choice: &Choice<'_>) -> Result<()> {
    for dashboard in Dashboard::all()? {
        let (silent, talking): (Vec<_>, Vec<_>) = dashboard.targets().into_iter().partition(|target| {
            EMPTY_WHERE_ALL_IS_WELL.contains(&(target.panel.as_str(), target.reference.as_str()))
        });
        let mut missing = BTreeSet::new();
        let waited = eventually(ANSWERS_WITHIN, "every query answers", || {
            missing.clear();
            for target in &talking {
                if !answers(prometheus, choice, target)? {
                    missing.insert(target.place());
                }
            }
            Ok(missing.is_empty().then_some(()))
        });
        let error = prometheus.scrape_error()?;
        waited.with_context(|| {
            format!(
                "{}: no answer to {missing:#?}; last scrape: {error:?}",
                dashboard.name
            )
        })?;
        for target in silent {
            let answer = prometheus.query(&choice.substitute(&target.expression))?;
            assert!(
                answer.is_empty(),
                "{}: {}: {answer:?}",
                dashboard.name,
                target.place()
            );
        }
    }
    Ok(())
}

fn answers(prometheus: &Prometheus, choice: &Choice<'_>, target: &Target) -> Result<bool> {
    let samples = prometheus
        .query(&choice.substitute(&target.expression))
        .with_context(|| target.place())?;
    for sample in &samples {
        assert!(sample.value.is_finite(), "{}: {sample:?}", target.place());
        for label in target.legend_labels() {
            let text = sample.labels.get(label).map(String::as_str).unwrap_or_default();
            assert!(!text.is_empty(), "{}: no {label} in {sample:?}", target.place());
        }
    }
    Ok(!samples.is_empty())
}

/// A node graph breaks on an edge to or from nowhere.
pub(crate) fn edges_have_both_their_nodes(prometheus: &Prometheus, choice: &Choice<'_>) -> Result<()> {
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            if panel.kind() != "nodeGraph" {
                continue;
            }
            let targets = panel.targets();
            let ask = |reference: &str| {
                let target = targets.iter().find(|target| target.reference == reference);
                let target = target.with_context(|| format!("{} has no {reference}", panel.title()))?;
                prometheus.query(&choice.substitute(&target.expression))
            };
            // The pairs are those of some seconds ago: a scrape that is just coming in changes neither.
            let (nodes, edges) = (ask("nodes")?, ask("edges")?);
            let nodes: BTreeSet<_> = nodes.iter().filter_map(|node| node.labels.get("id")).collect();
            for edge in &edges {
                for end in ["source", "target"] {
                    let found = edge.labels.get(end).is_some_and(|id| nodes.contains(id));
                    assert!(found, "{}: {end} of {edge:?} is not in {nodes:?}", panel.title());
                }
            }
        }
    }
    Ok(())
}

/// The lists at the top of the dashboard offer what there is.
pub(crate) fn the_variables_offer(prometheus: &Prometheus, name: &str, expected: &[&str]) -> Result<()> {
    for dashboard in Dashboard::all()? {
        let Some(variable) = dashboard.variable(name) else {
            panic!("{} has no ${name}", dashboard.name)
        };
        let query = ALL.substitute(variable["query"].as_str().unwrap_or_default());
        let inner = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inner
            .and_then(|inner| inner.rsplit_once(", "))
            .context("no label_values")?;
        let offered = prometheus.label_values(selector, label)?;
        for value in expected {
            assert!(
                offered.iter().any(|one| one == value),
                "{}: ${name} offers {offered:?}",
                dashboard.name
            );
        }
    }
    Ok(())
}

/// The panel for what only a network's sum has seen shows nothing while nobody comes and goes, and something as soon
/// as a container's whole life falls between two scrapes.
pub(crate) fn short_lived_containers_show(
    prometheus: &Prometheus,
    network: &str,
    live_shortly: impl Fn() -> Result<()>,
) -> Result<()> {
    let choice = Choice { network, ..ALL };
    let dashboards = Dashboard::all()?;
    let targets: Vec<_> = dashboards.iter().flat_map(Dashboard::targets).collect();
    let shown = |target: &Target| -> Result<bool> {
        // Less than a byte a second is what adding up in another order makes.
        let answer = prometheus.query(&format!("({}) > 1", choice.substitute(&target.expression)))?;
        Ok(!answer.is_empty())
    };
    let panel: Vec<_> = targets
        .iter()
        .filter(|target| target.panel == "Short-lived containers by network")
        .collect();
    assert_eq!(panel.len(), 2, "received and transmitted");
    for target in panel {
        eventually(ANSWERS_WITHIN, "nobody came or went", || {
            Ok((!shown(target)?).then_some(()))
        })?;
        // A scrape may fall into one's life, not into all of theirs.
        eventually(ANSWERS_WITHIN, &target.place(), || {
            live_shortly()?;
            Ok(shown(target)?.then_some(()))
        })?;
    }
    Ok(())
}
