//! What the engine says of itself beyond its version: how it runs decides what of its containers can be seen.

use anyhow::Context as _;
use serde::Deserialize;

use super::{connect::Engine, plain};

/// How an engine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// As an ordinary user: its networks are in a namespace that `RootlessKit` keeps for it.
    pub rootless: bool,
    /// With `userns-remap`: root in a container is an ordinary user outside.
    pub userns_remap: bool,
    /// As a node of a swarm.
    pub swarm: bool,
}

/// The part of `/info` that matters; the rest may say what it likes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Info {
    security_options: Option<Vec<String>>,
    swarm: Option<Swarm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Swarm {
    local_node_state: String,
}

/// Asks the engine.
///
/// # Errors
///
/// Where it does not say: a proxy before it may refuse the question.
pub(super) async fn about(engine: &Engine) -> anyhow::Result<About> {
    let path = format!("/v{}/info", engine.docker.client_version());
    let answer = plain::get(&engine.host, &path).await;
    read(&answer.context("ask docker about itself")?)
}

fn read(answer: &[u8]) -> anyhow::Result<About> {
    let Info {
        security_options,
        swarm,
    } = serde_json::from_slice(answer).context("read what docker says about itself")?;
    let options = security_options.unwrap_or_default();
    // Each is a list itself, such as `name=seccomp,profile=builtin`.
    let has = |wanted: &str| {
        options
            .iter()
            .any(|option| option.split(',').any(|part| part == wanted))
    };
    let swarm = swarm.unwrap_or_default().local_node_state;
    Ok(About {
        rootless: has("name=rootless"),
        userns_remap: has("name=userns"),
        swarm: !matches!(&*swarm, "" | "inactive"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_an_engine_runs_is_in_its_security_options() {
        for (answer, expected) in [
            ("{}", About::default()),
            (
                r#"{"SecurityOptions": null, "Swarm": {"LocalNodeState": "inactive"}}"#,
                About::default(),
            ),
            (
                r#"{"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"], "Images": []}"#,
                About {
                    rootless: true,
                    ..About::default()
                },
            ),
            (
                r#"{"SecurityOptions": ["name=userns"], "Swarm": {"LocalNodeState": "active", "NodeID": "x"}}"#,
                About {
                    userns_remap: true,
                    swarm: true,
                    ..About::default()
                },
            ),
        ] {
            assert_eq!(read(answer.as_bytes()).unwrap(), expected, "{answer}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(read(b"<html>").is_err());
    }
}
