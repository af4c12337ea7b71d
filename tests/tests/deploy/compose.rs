//! `compose.yaml` starts what the README starts, and what it mounts is there.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};
use dtm_tests::dashboards::{deploy, items};
use serde_json::Value;

use crate::alerts::yaml;

fn compose() -> Result<Value> {
    yaml(&deploy().join("compose.yaml"))
}

/// A bind mount: source, target, and what `-v` says after the second colon.
type Mount = (String, String, String);

fn binds(service: &Value) -> BTreeSet<Mount> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mounts = items(&service["volumes"])
        .iter()
        .filter(|mount| mount["type"] == "bind");
    mounts
        .map(|mount| {
            let read_only = (mount["read_only"] == true).then(|| "ro".to_owned());
            let propagation = mount["bind"]["propagation"].as_str().map(str::to_owned);
            let options: Vec<_> = read_only.into_iter().chain(propagation).collect();
            (text(&mount["source"]), text(&mount["target"]), options.join(","))
        })
        .collect()
}

#[test]
fn dtm_runs_as_the_readme_says() -> Result<()> {
    let readme = fs::read_to_string(deploy().join("../README.md")).context("read README.md")?;
    let joined = readme.replace("\\\n", " ");
    let mut runs = joined
        .lines()
        .filter(|line| line.contains("docker run") && line.contains("--privileged"));
    let words: Vec<&str> = runs
        .next()
        .context("the README starts no dtm")?
        .split_whitespace()
        .collect();
    let after = |flags: &[&str]| -> BTreeSet<&str> {
        words
            .windows(2)
            .filter(|pair| flags.contains(&pair[0]))
            .map(|pair| pair[1])
            .collect()
    };
    let mounts: BTreeSet<Mount> = after(&["-v", "--volume"])
        .into_iter()
        .map(|mount| {
            let mut parts = mount.splitn(3, ':').map(str::to_owned);
            let mut part = || parts.next().unwrap_or_default();
            (part(), part(), part())
        })
        .collect();

    let dtm = &compose()?["services"]["dtm"];
    assert_eq!(binds(dtm), mounts);
    assert_eq!(dtm["privileged"], true);
    assert_eq!(
        dtm["network_mode"].as_str(),
        after(&["--network", "--net"]).first().copied()
    );
    assert_eq!(dtm["pid"].as_str(), after(&["--pid"]).first().copied());
    assert_eq!(dtm["cgroup"].as_str(), after(&["--cgroupns"]).first().copied());
    Ok(())
}

#[test]
fn what_is_mounted_from_here_exists() -> Result<()> {
    let compose = compose()?;
    for service in ["grafana", "prometheus"] {
        for (source, ..) in binds(&compose["services"][service]) {
            assert!(deploy().join(&source).is_dir(), "{service}: {source}");
        }
    }
    Ok(())
}

#[test]
fn every_foreign_image_has_a_version() -> Result<()> {
    let compose = compose()?;
    for service in ["grafana", "prometheus"] {
        let image = compose["services"][service]["image"].as_str().unwrap_or_default();
        let tag = image
            .rsplit_once(':')
            .map(|(_, tag)| tag.trim_start_matches('v'))
            .unwrap_or_default();
        assert_eq!(
            tag.split('.').filter(|part| part.parse::<u32>().is_ok()).count(),
            3,
            "{image}"
        );
    }
    Ok(())
}

/// The dashboards are held against these types: another version may have others.
#[test]
fn grafana_is_the_version_whose_types_are_tested() -> Result<()> {
    let package =
        fs::read_to_string(deploy().join("../tests/dashboards/package.json")).context("read package.json")?;
    let package: Value = serde_json::from_str(&package).context("parse package.json")?;
    let version = package["dependencies"]["@grafana/schema"]
        .as_str()
        .unwrap_or_default();
    assert_eq!(
        compose()?["services"]["grafana"]["image"],
        format!("grafana/grafana:{version}")
    );
    Ok(())
}

/// Docker's published ports pass by the host's firewall.
#[test]
fn ports_are_published_to_this_host_only() -> Result<()> {
    let compose = compose()?;
    let services = compose["services"]
        .as_object()
        .context("compose.yaml has no services")?;
    for (name, service) in services {
        for port in items(&service["ports"]) {
            assert!(
                port.as_str().unwrap_or_default().starts_with("127.0.0.1:"),
                "{name}: {port}"
            );
        }
    }
    Ok(())
}

#[test]
fn grafana_finds_its_data_source_and_dashboards() -> Result<()> {
    let compose = compose()?;
    let provisioning = deploy().join("grafana/provisioning");
    let sources = yaml(&provisioning.join("datasources/prometheus.yaml"))?;
    let source = &sources["datasources"][0];
    assert_eq!(source["type"], "prometheus");
    assert_eq!(source["url"], "http://prometheus:9090");
    assert!(compose["services"]["prometheus"].is_object());
    let scrape = yaml(&deploy().join("prometheus/prometheus.yml"))?;
    assert_eq!(
        source["jsonData"]["timeInterval"], scrape["global"]["scrape_interval"],
        "$__rate_interval needs it"
    );

    let providers = yaml(&provisioning.join("dashboards/dtm.yaml"))?;
    let folder = providers["providers"][0]["options"]["path"]
        .as_str()
        .context("the provider has no path")?;
    let mounted = binds(&compose["services"]["grafana"]);
    let (source, ..) = mounted
        .iter()
        .find(|(_, target, _)| target == folder)
        .context("nothing is mounted there")?;
    assert!(deploy().join(source).join("dtm-overview.json").is_file());
    let home =
        compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str();
    assert_eq!(home, Some(format!("{folder}/dtm-overview.json").as_str()));
    Ok(())
}
