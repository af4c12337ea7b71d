//! The rules of Grafana's dashboard linter, one test each.

use anyhow::Result;
use dtm_tests::dashboards::{
    Dashboard, items,
    promql::{self, RANGE, RATE_INTERVAL},
};

const DATASOURCE: &str = "${datasource}";
/// Panels for which the linter asks for words and a unit.
const SHOWN: [&str; 4] = ["stat", "gauge", "timeseries", "table"];

#[test]
fn template_datasource_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let sources: Vec<_> = dashboard
            .variables()
            .iter()
            .filter(|variable| variable["type"] == "datasource")
            .collect();
        assert_eq!(sources.len(), 1, "{}: one data source is chosen", dashboard.name);
        assert_eq!(sources[0]["name"], "datasource", "{}", dashboard.name);
        assert_eq!(sources[0]["label"], "Data source", "{}", dashboard.name);
        assert_eq!(sources[0]["query"], "prometheus", "{}", dashboard.name);
    }
    Ok(())
}

fn chooses_all_by_query(name: &str, label: &str) -> Result<()> {
    for dashboard in Dashboard::all()? {
        let Some(variable) = dashboard.variable(name) else {
            panic!("{} has no ${name}", dashboard.name)
        };
        assert_eq!(variable["type"], "query", "{} ${name}", dashboard.name);
        assert_eq!(
            variable["datasource"]["uid"], DATASOURCE,
            "{} ${name}",
            dashboard.name
        );
        assert_eq!(variable["label"], label, "{} ${name}", dashboard.name);
        assert_eq!(variable["multi"], true, "{} ${name}", dashboard.name);
        assert_eq!(variable["includeAll"], true, "{} ${name}", dashboard.name);
        assert_eq!(variable["allValue"], ".+", "{} ${name}", dashboard.name);
    }
    Ok(())
}

#[test]
fn template_job_rule() -> Result<()> {
    chooses_all_by_query("job", "Job")
}

#[test]
fn template_instance_rule() -> Result<()> {
    chooses_all_by_query("instance", "Instance")
}

#[test]
fn template_on_time_change_reload_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for variable in dashboard
            .variables()
            .iter()
            .filter(|variable| variable["type"] == "query")
        {
            assert_eq!(variable["refresh"], 2, "{} ${}", dashboard.name, variable["name"]);
        }
    }
    Ok(())
}

#[test]
fn template_label_promql_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for variable in dashboard
            .variables()
            .iter()
            .filter(|variable| variable["type"] == "query")
        {
            let query = variable["query"].as_str().unwrap_or_default();
            let inner = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'));
            let Some((selector, label)) = inner.and_then(|inner| inner.rsplit_once(", ")) else {
                panic!("{}: {query} is no label_values(selector, label)", dashboard.name)
            };
            assert_eq!(
                promql::parse(selector)?.selectors.len(),
                1,
                "{}: {query}",
                dashboard.name
            );
            assert!(
                label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{query}"
            );
        }
    }
    Ok(())
}

#[test]
fn panel_datasource_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            assert_eq!(
                panel.0["datasource"]["uid"],
                DATASOURCE,
                "{}: {}",
                dashboard.name,
                panel.title()
            );
            for target in items(&panel.0["targets"]) {
                assert_eq!(
                    target["datasource"]["uid"],
                    DATASOURCE,
                    "{}: {}",
                    dashboard.name,
                    panel.title()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn panel_title_description_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for panel in dashboard
            .panels()
            .iter()
            .filter(|panel| SHOWN.contains(&panel.kind()))
        {
            assert!(
                !panel.title().is_empty(),
                "{}: panel {}",
                dashboard.name,
                panel.0["id"]
            );
            let description = panel.0["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{}: {}", dashboard.name, panel.title());
        }
    }
    Ok(())
}

#[test]
fn panel_no_targets_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for panel in dashboard
            .panels()
            .iter()
            .filter(|panel| SHOWN.contains(&panel.kind()))
        {
            assert!(
                !panel.targets().is_empty(),
                "{}: {}",
                dashboard.name,
                panel.title()
            );
        }
    }
    Ok(())
}

/// That the unit is one Grafana knows is for its types to say.
#[test]
fn panel_units_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for panel in dashboard
            .panels()
            .iter()
            .filter(|panel| SHOWN.contains(&panel.kind()))
        {
            let unit = panel.0["fieldConfig"]["defaults"]["unit"]
                .as_str()
                .unwrap_or_default();
            assert!(!unit.is_empty(), "{}: {}", dashboard.name, panel.title());
        }
    }
    Ok(())
}

#[test]
fn target_promql_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            let query = promql::parse(&target.expression)?;
            assert!(
                !query.selectors.is_empty(),
                "{}: {}",
                dashboard.name,
                target.place()
            );
        }
    }
    Ok(())
}

fn every_selector_has(label: &str, value: &str) -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            for selector in promql::parse(&target.expression)?.selectors {
                let place = format!("{}: {}: {}", dashboard.name, target.place(), selector.metric);
                assert!(selector.matches(label, "=~", value), "{place}");
            }
        }
    }
    Ok(())
}

#[test]
fn target_job_rule() -> Result<()> {
    every_selector_has("job", "$job")
}

#[test]
fn target_instance_rule() -> Result<()> {
    every_selector_has("instance", "$instance")
}

#[test]
fn target_rate_interval_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            for selector in promql::parse(&target.expression)?.selectors {
                let place = format!("{}: {}: {}", dashboard.name, target.place(), selector.metric);
                match (selector.function, selector.range) {
                    (Some("rate" | "irate"), range) => assert_eq!(range, Some(RATE_INTERVAL), "{place}"),
                    // A sum over all that is looked at, or over the distance of two points.
                    (_, Some(range)) => assert!([RATE_INTERVAL, RANGE].contains(&range), "{place}"),
                    (_, None) => {}
                }
            }
        }
    }
    Ok(())
}

#[test]
fn target_counter_agg_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.targets() {
            for selector in promql::parse(&target.expression)?.selectors {
                let counter = ["_total", "_bucket", "_count", "_sum"]
                    .iter()
                    .any(|end| selector.metric.ends_with(end));
                let place = format!("{}: {}: {}", dashboard.name, target.place(), selector.metric);
                assert_eq!(
                    counter,
                    matches!(selector.function, Some("rate" | "irate" | "increase")),
                    "{place}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn uneditable_rule() -> Result<()> {
    for dashboard in Dashboard::all()? {
        assert_eq!(dashboard.json["editable"], false, "{}", dashboard.name);
    }
    Ok(())
}
