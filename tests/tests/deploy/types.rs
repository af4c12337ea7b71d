//! Grafana's own types accept the dashboards, and would not accept them otherwise.

use std::path::Path;

use anyhow::{Context as _, Result};
use dtm_tests::dashboards::{Dashboard, items, types::GrafanaTypes};
use serde_json::{Value, json};

fn types() -> Result<GrafanaTypes> {
    GrafanaTypes::installed(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

#[test]
fn dashboards_have_grafanas_types() -> Result<()> {
    let dashboards = Dashboard::all()?;
    let named: Vec<_> = dashboards
        .iter()
        .map(|dashboard| (dashboard.name.as_str(), &dashboard.json))
        .collect();
    let errors = types()?.errors(&named)?;
    assert!(errors.is_empty(), "{errors:#?}");
    Ok(())
}

/// Where a mistake is planted: the first panel of a kind, or the dashboard itself.
const STAT: &str = "stat";
const TABLE: &str = "table";
const SERIES: &str = "timeseries";
const BARS: &str = "bargauge";
const GRAPH: &str = "nodeGraph";
const ROW: &str = "row";
const DASHBOARD: &str = "";

/// A mistake: its name, where it is planted, and the JSON put there.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

const MISTAKES: [Mistake; 36] = [
    (
        "legend_mode",
        SERIES,
        "/options/legend/displayMode",
        r#""tables""#,
    ),
    ("legend_calculation", SERIES, "/options/legend/calcs", r#""max""#),
    (
        "options_of_another_panel",
        SERIES,
        "/options/colorMode",
        r#""value""#,
    ),
    ("panel_type", SERIES, "/type", r#""graph""#),
    ("unit", SERIES, "/fieldConfig/defaults/unit", r#""bytes/s""#),
    (
        "number_as_text",
        SERIES,
        "/fieldConfig/defaults/custom/fillOpacity",
        r#""10""#,
    ),
    (
        "unknown_field_option",
        SERIES,
        "/fieldConfig/defaults/custom/opacity",
        "10",
    ),
    ("grid", SERIES, "/gridPos", r#"{ "w": 12 }"#),
    ("fixed_datasource", SERIES, "/datasource/uid", r#""prometheus""#),
    (
        "target_without_expression",
        SERIES,
        "/targets/0",
        r#"{ "refId": "A" }"#,
    ),
    ("unknown_target_field", SERIES, "/targets/0/query", r#""up""#),
    ("tooltip", SERIES, "/options/tooltip/sort", r#""descending""#),
    ("target_format", TABLE, "/targets/0/format", r#""tabel""#),
    (
        "cell_type",
        TABLE,
        "/fieldConfig/defaults/custom/cellOptions/type",
        r#""fancy""#,
    ),
    ("cell_height", TABLE, "/options/cellHeight", r#""huge""#),
    (
        "override_unit",
        TABLE,
        "/fieldConfig/overrides/0/properties/0/value",
        r#""packets""#,
    ),
    (
        "override_property",
        TABLE,
        "/fieldConfig/overrides/0/properties/0/id",
        r#""units""#,
    ),
    (
        "transformation_option",
        TABLE,
        "/transformations/1/options/rename",
        "{}",
    ),
    ("graph_mode", STAT, "/options/graphMode", r#""bars""#),
    ("missing_options", STAT, "/options", r#"{ "graphMode": "none" }"#),
    (
        "mapping_type",
        STAT,
        "/fieldConfig/defaults/mappings/0/type",
        r#""val""#,
    ),
    (
        "threshold_without_value",
        STAT,
        "/fieldConfig/defaults/thresholds/steps/0",
        r#"{ "color": "red" }"#,
    ),
    (
        "colour_mode",
        STAT,
        "/fieldConfig/defaults/color/mode",
        r#""treshold""#,
    ),
    ("bar_mode", BARS, "/options/displayMode", r#""gradiant""#),
    ("graph_layout", GRAPH, "/options/layoutAlgorithm", r#""layers""#),
    ("graph_unit", GRAPH, "/options/edges/mainStatUnit", r#""bytes/s""#),
    (
        "calculated_name",
        GRAPH,
        "/transformations/1/options/alias",
        r#""mainStat""#,
    ),
    (
        "calculated_of",
        GRAPH,
        "/transformations/1/options/binary/left",
        r#""nodes""#,
    ),
    ("row_state", ROW, "/collapsed", r#""false""#),
    ("variable_refresh", DASHBOARD, "/templating/list/1/refresh", "3"),
    (
        "variable_type",
        DASHBOARD,
        "/templating/list/1/type",
        r#""querry""#,
    ),
    (
        "variable_field",
        DASHBOARD,
        "/templating/list/1/includeall",
        "true",
    ),
    ("unknown_field", DASHBOARD, "/graphToolTip", "1"),
    ("old_schema", DASHBOARD, "/schemaVersion", "16"),
    ("inputs", DASHBOARD, "/__inputs", "[]"),
    ("link_type", DASHBOARD, "/links/0/type", r#""dashboard""#),
];

#[test]
fn planted_mistakes_are_found() -> Result<()> {
    let right = one_panel_of_each_kind()?;
    let mut dashboards = vec![("right", right.clone())];
    for (name, kind, place, value) in MISTAKES {
        let mut wrong = right.clone();
        let target = match kind {
            DASHBOARD => &mut wrong,
            kind => wrong["panels"]
                .as_array_mut()
                .and_then(|panels| panels.iter_mut().find(|panel| panel["type"] == kind))
                .with_context(|| format!("there is no {kind} to plant a mistake in"))?,
        };
        plant(target, place, serde_json::from_str(value)?)?;
        dashboards.push((name, wrong));
    }
    let named: Vec<_> = dashboards
        .iter()
        .map(|(name, dashboard)| (*name, dashboard))
        .collect();
    let errors = types()?.errors(&named)?;
    let missed: Vec<_> = MISTAKES
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| !errors.contains_key(*name))
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    assert_eq!(errors.get("right"), None, "nothing was planted there");
    Ok(())
}

/// A whole dashboard times all mistakes would take the compiler most of a minute.
fn one_panel_of_each_kind() -> Result<Value> {
    let all = Dashboard::all()?;
    let overview = all.into_iter().find(|dashboard| dashboard.name == "dtm-overview");
    let mut dashboard = overview.context("the overview")?.json;
    let panels = items(&dashboard["panels"]).to_vec();
    let first = |kind: &str| {
        let found = panels.iter().find(|panel| panel["type"] == kind);
        found
            .cloned()
            .with_context(|| format!("the dashboard has no {kind}"))
    };
    dashboard["panels"] = json!([
        first(STAT)?,
        first(TABLE)?,
        first(SERIES)?,
        first(BARS)?,
        first(GRAPH)?,
        first(ROW)?
    ]);
    Ok(dashboard)
}

fn plant(target: &mut Value, place: &str, value: Value) -> Result<()> {
    let (parent, key) = place.rsplit_once('/').context("a place begins with a slash")?;
    let parent = target
        .pointer_mut(parent)
        .with_context(|| format!("{place} is not there"))?;
    match parent {
        Value::Array(items) => items[key.parse::<usize>()?] = value,
        parent => parent[key] = value,
    }
    Ok(())
}
