//! Dashboards and alerts ask for what dtm really exposes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use dtm_tests::dashboards::{
    Dashboard,
    promql::{self, Query},
};

use crate::alerts::alerts;

/// What Prometheus itself says of each target.
const OF_PROMETHEUS: [&str; 2] = ["up", "scrape_duration_seconds"];
/// What Prometheus adds to every series.
const OF_TARGET: [&str; 2] = ["job", "instance"];

/// Every metric with its labels, as DESIGN §4 names them.
fn families() -> BTreeMap<String, BTreeSet<String>> {
    let container = "container_id name";
    let interface = format!("{container} network interface");
    let drop = format!("{container} direction reason");
    let mut families = BTreeMap::new();
    let mut add = |name: &str, labels: &str| {
        families.insert(
            name.to_owned(),
            labels.split_whitespace().map(str::to_owned).collect(),
        );
    };
    for direction in ["receive", "transmit"] {
        for what in ["bytes", "packets", "wire_bytes"] {
            add(
                &format!("dtm_container_network_{direction}_{what}_total"),
                &interface,
            );
        }
        for what in ["bytes", "packets"] {
            add(
                &format!("dtm_network_containers_{direction}_{what}_total"),
                "network driver",
            );
            add(
                &format!("dtm_network_bridge_{direction}_{what}_total"),
                "network driver",
            );
            add(&format!("dtm_unattributed_{direction}_{what}_total"), "hook");
        }
    }
    add("dtm_container_network_dropped_packets_total", &drop);
    add("dtm_container_network_dropped_bytes_total", &drop);
    add("dtm_dropped_packets_total", "reason");
    add("dtm_unattributed_dropped_packets_total", "reason");
    add(
        "dtm_container_info",
        "container_id name id image network_mode compose_project compose_service",
    );
    add("dtm_container_uncovered", "container_id name reason");
    add("dtm_docker_up", "");
    add("dtm_containers", "state");
    add("dtm_interfaces", "state mode");
    add("dtm_build_info", "version revision");
    add("dtm_feature_available", "feature");
    add("dtm_bpf_map_entries", "map");
    add("dtm_bpf_map_max_entries", "map");
    add("dtm_bpf_map_update_errors_total", "map");
    add("dtm_events_lost_total", "source");
    add("dtm_attach_errors_total", "reason");
    add("dtm_reattached_total", "");
    add("dtm_scrape_collector_duration_seconds", "collector");
    add("process_cpu_seconds_total", "");
    add("process_resident_memory_bytes", "");
    families
}

fn check(place: &str, query: &Query, families: &BTreeMap<String, BTreeSet<String>>) {
    let mut labels: BTreeSet<&str> = OF_TARGET.into();
    for selector in &query.selectors {
        let Some(known) = families.get(&selector.metric) else {
            assert!(
                OF_PROMETHEUS.contains(&selector.metric.as_str()),
                "{place}: there is no {}",
                selector.metric
            );
            continue;
        };
        for (label, ..) in &selector.matchers {
            let there = known.contains(label) || OF_TARGET.contains(&label.as_str());
            assert!(there, "{place}: {} has no label {label}", selector.metric);
        }
        labels.extend(known.iter().map(String::as_str));
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
    let families = families();
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
    let families = families();
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
