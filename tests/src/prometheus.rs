//! A real Prometheus beside the dtm it scrapes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    dashboards::items,
    eventually::eventually,
    http::{self, percent_encoded},
};

/// How often it scrapes: often enough that a test has a rate after a few seconds.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A running Prometheus; it ends when this goes.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
}

/// One series of a query's answer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Prometheus {
    /// Starts one in the calling thread's network namespace that scrapes `target` as the job `dtm` and keeps
    /// everything in `directory`.
    pub fn start(directory: &Path, port: u16, target: SocketAddr) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let interval = SCRAPE_INTERVAL.as_secs();
        let configuration = directory.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: {interval}s\nscrape_configs:\n  - job_name: dtm\n    static_configs:\n      - targets: ['{target}']\n"
        );
        fs::write(&configuration, text).context("write the configuration of Prometheus")?;
        let log = File::create(directory.join("prometheus.log")).context("create Prometheus' log")?;
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(log.try_clone().context("share Prometheus' log")?)
            .stderr(log)
            .spawn()
            .context("start prometheus")?;
        let mut prometheus = Self { process, address };
        eventually(STARTS_WITHIN, "Prometheus is ready", || {
            if let Some(status) = prometheus.process.try_wait()? {
                bail!(
                    "Prometheus ended with {status}: {}",
                    fs::read_to_string(directory.join("prometheus.log"))?
                );
            }
            let ready = http::get(address, "/-/ready", &[]).is_ok_and(|response| response.status == 200);
            Ok(ready.then_some(()))
        })?;
        Ok(prometheus)
    }

    /// Asks for the value of `expression` now.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
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
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let matching = percent_encoded(selector);
        let answer = self.ask(&format!("/api/v1/label/{label}/values?match[]={matching}"))?;
        Ok(items(&answer)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect())
    }

    /// Why the last scrape failed; nothing where it did not, or where there has not been one.
    pub fn scrape_error(&self) -> Result<Option<String>> {
        let answer = self.ask("/api/v1/targets?state=active")?;
        let error = answer["activeTargets"][0]["lastError"]
            .as_str()
            .unwrap_or_default();
        Ok((!error.is_empty()).then(|| error.to_owned()))
    }

    fn ask(&self, path: &str) -> Result<Value> {
        let response = http::get(self.address, path, &[])?;
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

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and its status is all there is to fetch.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
