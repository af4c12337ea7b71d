//! A real Prometheus beside the dtm it scrapes.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use dtm_tests::{
    daemon::{get, percent_encoded},
    dashboards::items,
};
use serde_json::Value;
use xtask::host::{Host, Network, Running, eventually};

/// How often it scrapes: often enough that a test has a rate after a few seconds.
pub(crate) const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// Where it listens in the host's network.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A running Prometheus; it ends when this goes.
#[derive(Debug)]
pub(crate) struct Prometheus {
    network: Network,
    /// Held for its end.
    _process: Running,
}

/// One series of a query's answer.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its value.
    pub(crate) value: f64,
}

impl Prometheus {
    /// Starts one in `host` that scrapes `target` as the job `dtm`.
    pub(crate) fn start(host: &Host, target: SocketAddr) -> Result<Self> {
        let interval = SCRAPE_INTERVAL.as_secs();
        let configuration = host.directory().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: {interval}s\nscrape_configs:\n  - job_name: dtm\n    static_configs:\n      - targets: ['{target}']\n"
        );
        fs::write(&configuration, text).context("write the configuration of Prometheus")?;
        let arguments = [
            format!("--config.file={}", configuration.display()),
            format!(
                "--storage.tsdb.path={}",
                host.directory().join("prometheus").display()
            ),
            format!("--web.listen-address={ADDRESS}"),
        ];
        let (network, mut process) = (host.network()?, host.spawn("prometheus", arguments)?);
        eventually(STARTS_WITHIN, "Prometheus is ready", || {
            if let Some(status) = process.try_wait()? {
                bail!("Prometheus ended with {status}: {}", process.log());
            }
            let ready = get(&network, ADDRESS, "/-/ready", &[]).is_ok_and(|response| response.status == 200);
            Ok(ready.then_some(()))
        })?;
        Ok(Self {
            network,
            _process: process,
        })
    }

    /// Asks for the value of `expression` now.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let answer = self.ask(&format!("/api/v1/query?query={}", percent_encoded(expression)))?;
        items(&answer["result"])
            .iter()
            .map(|series| {
                let value = series["value"][1].as_str().context("a sample without a value")?;
                Ok(Sample {
                    labels: labels(&series["metric"]),
                    value: value.parse()?,
                })
            })
            .collect()
    }

    /// The values of `label` among the series that `selector` chooses.
    pub(crate) fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let matching = percent_encoded(selector);
        let answer = self.ask(&format!("/api/v1/label/{label}/values?match[]={matching}"))?;
        Ok(items(&answer)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect())
    }

    /// Why the last scrape failed; nothing where it did not, or where there has not been one.
    pub(crate) fn scrape_error(&self) -> Result<Option<String>> {
        let answer = self.ask("/api/v1/targets?state=active")?;
        let error = answer["activeTargets"][0]["lastError"]
            .as_str()
            .unwrap_or_default();
        Ok((!error.is_empty()).then(|| error.to_owned()))
    }

    fn ask(&self, path: &str) -> Result<Value> {
        let response = get(&self.network, ADDRESS, path, &[])?;
        let answer: Value =
            serde_json::from_slice(&response.body).with_context(|| format!("parse {path}"))?;
        if answer["status"] != "success" {
            bail!("Prometheus refuses {path}: {}", answer["error"]);
        }
        Ok(answer["data"].clone())
    }
}

fn labels(metric: &Value) -> BTreeMap<String, String> {
    let pairs = metric.as_object().into_iter().flatten();
    pairs
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}
