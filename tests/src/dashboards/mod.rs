//! Grafana's dashboards in `deploy/grafana/dashboards`, as the suites look at them: panels, targets, variables.

pub mod promql;
pub mod types;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The folder everything to be deployed is in.
pub fn deploy() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("deploy")
}

/// One dashboard file.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// The file's name without its ending.
    pub name: String,
    /// The file as it is.
    pub text: String,
    /// What it says.
    pub json: Value,
}

impl Dashboard {
    /// Every dashboard, sorted by file name.
    pub fn all() -> Result<Vec<Self>> {
        let directory = deploy().join("grafana/dashboards");
        let mut dashboards = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let path = entry?.path();
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let json = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            dashboards.push(Self { name, text, json });
        }
        if dashboards.is_empty() {
            bail!("no dashboard in {}", directory.display());
        }
        dashboards.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(dashboards)
    }

    /// Every panel but the rows, those inside collapsed rows included.
    pub fn panels(&self) -> Vec<Panel<'_>> {
        let mut panels = Vec::new();
        for panel in items(&self.json["panels"]) {
            if panel["type"] == "row" {
                panels.extend(items(&panel["panels"]).iter().map(Panel));
            } else {
                panels.push(Panel(panel));
            }
        }
        panels
    }

    /// The variables at the top of the dashboard.
    pub fn variables(&self) -> &[Value] {
        items(&self.json["templating"]["list"])
    }

    /// The variable of that name.
    pub fn variable(&self, name: &str) -> Option<&Value> {
        self.variables().iter().find(|variable| variable["name"] == name)
    }

    /// Every query of every panel.
    pub fn targets(&self) -> Vec<Target> {
        self.panels().iter().flat_map(Panel::targets).collect()
    }
}

/// One panel of a dashboard.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a>(pub &'a Value);

impl Panel<'_> {
    /// The plug-in's id: `timeseries`, `stat`, `table`, …
    pub fn kind(&self) -> &str {
        self.0["type"].as_str().unwrap_or_default()
    }

    /// What stands over it.
    pub fn title(&self) -> &str {
        self.0["title"].as_str().unwrap_or_default()
    }

    /// Its queries.
    pub fn targets(&self) -> Vec<Target> {
        let text = |target: &Value, key: &str| target[key].as_str().unwrap_or_default().to_owned();
        items(&self.0["targets"])
            .iter()
            .map(|target| Target {
                panel: self.title().to_owned(),
                reference: text(target, "refId"),
                expression: text(target, "expr"),
                legend: text(target, "legendFormat"),
            })
            .collect()
    }
}

/// One query of a panel.
#[derive(Clone, Debug)]
pub struct Target {
    /// The panel's title.
    pub panel: String,
    /// The query's letter.
    pub reference: String,
    /// The query, with Grafana's variables.
    pub expression: String,
    /// How a series is named, with `{{label}}` for a label's value.
    pub legend: String,
}

impl Target {
    /// The labels that the legend shows.
    pub fn legend_labels(&self) -> Vec<&str> {
        self.legend
            .split("{{")
            .skip(1)
            .filter_map(|rest| rest.split_once("}}"))
            .map(|(label, _)| label.trim())
            .collect()
    }

    /// Panel and letter, for messages.
    pub fn place(&self) -> String {
        format!("panel {:?}, query {}", self.panel, self.reference)
    }
}

/// The items of a JSON array; none where there is no array.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
