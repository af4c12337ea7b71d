//! What neither the linter nor the types look at: the grid, the links, the file itself.

use std::collections::BTreeSet;

use anyhow::Result;
use dtm_tests::dashboards::{Dashboard, items, promql};
use serde_json::Value;

/// Grafana's grid.
const COLUMNS: u64 = 24;

#[test]
fn panels_lie_inside_the_grid_and_beside_each_other() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let mut taken = BTreeSet::new();
        for panel in items(&dashboard.json["panels"]) {
            let at = |key: &str| {
                panel["gridPos"][key]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{} has no {key}", panel["title"]))
            };
            assert!(
                at("w") > 0 && at("h") > 0 && at("x") + at("w") <= COLUMNS,
                "{}",
                panel["title"]
            );
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(
                        taken.insert((x, y)),
                        "{}: {} lies on another panel",
                        dashboard.name,
                        panel["title"]
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_id_is_there_once() -> Result<()> {
    let mut dashboards = BTreeSet::new();
    for dashboard in Dashboard::all()? {
        let uid = dashboard.json["uid"].as_str().unwrap_or_default().to_owned();
        assert!(
            (8..=40).contains(&uid.len()),
            "{}: Grafana takes 8 to 40 characters",
            dashboard.name
        );
        assert!(dashboards.insert(uid), "{}", dashboard.name);
        assert!(
            dashboard.json["id"].is_null(),
            "{}: the database's id is Grafana's to give",
            dashboard.name
        );
        let panels: Vec<_> = items(&dashboard.json["panels"])
            .iter()
            .map(|panel| panel["id"].as_u64())
            .collect();
        assert_eq!(
            panels.iter().collect::<BTreeSet<_>>().len(),
            panels.len(),
            "{}",
            dashboard.name
        );
        for panel in dashboard.panels() {
            let references: Vec<_> = panel
                .targets()
                .into_iter()
                .map(|target| target.reference)
                .collect();
            assert_eq!(
                references.iter().collect::<BTreeSet<_>>().len(),
                references.len(),
                "{}",
                panel.title()
            );
        }
    }
    Ok(())
}

/// An `__inputs` list is for grafana.com: provisioned from a file, its placeholders stay unfilled.
#[test]
fn the_same_file_is_imported_and_provisioned() -> Result<()> {
    for dashboard in Dashboard::all()? {
        assert!(dashboard.json.get("__inputs").is_none(), "{}", dashboard.name);
        assert!(!dashboard.text.contains("${DS_"), "{}", dashboard.name);
        let version = dashboard.json["schemaVersion"].as_u64().unwrap_or_default();
        assert!((39..=41).contains(&version), "{}: {version}", dashboard.name);
    }
    Ok(())
}

/// The panel takes its two tables by the names of their queries, and a value by the name `mainstat`.
#[test]
fn a_node_graph_has_nodes_and_edges() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            if panel.kind() != "nodeGraph" {
                continue;
            }
            let queries = items(&panel.0["targets"]);
            let names: Vec<_> = queries.iter().map(|query| query["refId"].as_str()).collect();
            assert_eq!(names, [Some("nodes"), Some("edges")], "{}", panel.title());
            for query in queries {
                assert_eq!(query["format"], "table", "{}", panel.title());
                assert_eq!(query["instant"], true, "{}", panel.title());
            }
            let values: Vec<_> = items(&panel.0["transformations"])
                .iter()
                .filter(|transformation| transformation["options"]["alias"] == "mainstat")
                .map(|transformation| transformation["options"]["binary"]["left"].as_str())
                .collect();
            assert_eq!(
                values,
                [Some("Value #nodes"), Some("Value #edges")],
                "{}",
                panel.title()
            );
            for (target, made) in panel.targets().iter().zip([
                ["id", "title", "subtitle"].as_slice(),
                ["id", "source", "target"].as_slice(),
            ]) {
                let query = promql::parse(&target.expression)?;
                for label in made {
                    assert!(query.made.contains(*label), "{}: {label}", target.place());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_variable_used_is_defined_and_every_one_defined_is_used() -> Result<()> {
    let own = |name: &str| name.starts_with("__");
    for dashboard in Dashboard::all()? {
        let defined: BTreeSet<&str> = dashboard
            .variables()
            .iter()
            .filter_map(|variable| variable["name"].as_str())
            .collect();
        let mut used = BTreeSet::new();
        let mut texts = Vec::new();
        strings(&dashboard.json, &mut texts);
        for text in texts {
            for rest in text.split('$').skip(1) {
                let rest = rest.strip_prefix('{').unwrap_or(rest);
                let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
                used.insert(&rest[..end.unwrap_or(rest.len())]);
            }
        }
        let used: BTreeSet<&str> = used.into_iter().filter(|name| !own(name)).collect();
        assert_eq!(used, defined, "{}", dashboard.name);
    }
    Ok(())
}

fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn links_lead_to_a_dashboard_that_exists() -> Result<()> {
    let dashboards = Dashboard::all()?;
    for dashboard in &dashboards {
        let mut texts = Vec::new();
        strings(&dashboard.json, &mut texts);
        for text in texts.iter().filter_map(|text| text.strip_prefix("/d/")) {
            let uid = text.split(['?', '/']).next().unwrap_or_default();
            assert!(
                dashboards.iter().any(|other| other.json["uid"] == uid),
                "{}: {text}",
                dashboard.name
            );
        }
    }
    Ok(())
}

/// An interface's name is the host's own; a dashboard that has one shows nothing elsewhere.
#[test]
fn no_host_container_or_interface_is_named() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            for selector in promql::parse(&target.expression)?.selectors {
                for (label, _, value) in &selector.matchers {
                    let names = ["job", "instance", "name", "network", "source", "destination"]
                        .contains(&label.as_str());
                    // `@other` and its like are dtm's own names, and the same everywhere.
                    assert_eq!(
                        names && !value.starts_with('@'),
                        value.starts_with('$'),
                        "{}: {label} {value}",
                        target.place()
                    );
                    assert_ne!(label, "interface", "{}", target.place());
                }
            }
        }
    }
    Ok(())
}

/// `$job` may be all jobs: what every target of Prometheus has must be narrowed to those that are a dtm.
#[test]
fn other_exporters_are_left_out() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            let metrics: Vec<_> = promql::parse(&target.expression)?
                .selectors
                .into_iter()
                .map(|selector| selector.metric)
                .collect();
            let foreign = metrics.iter().any(|metric| !metric.starts_with("dtm_"));
            let narrowed = metrics.iter().any(|metric| metric == "dtm_build_info");
            assert!(!foreign || narrowed, "{}: {}", dashboard.name, target.place());
        }
    }
    Ok(())
}

/// Otherwise the next change is a new file to whoever reads it.
#[test]
fn files_are_sorted_and_indented() -> Result<()> {
    for dashboard in Dashboard::all()? {
        assert_eq!(
            dashboard.text,
            format!("{:#}\n", dashboard.json),
            "{}",
            dashboard.name
        );
    }
    Ok(())
}
