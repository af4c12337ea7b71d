//! Everything the engine has, even where a part of its answer makes no sense.

use std::collections::HashMap;

use anyhow::Context as _;
use bollard::{
    errors::Error,
    models::ContainerSummary,
    query_parameters::{ListContainersOptions, ListContainersOptionsBuilder},
};
use serde_json::Value;

use super::{
    Container, ContainerId, Network,
    connect::{Engine, answered},
    convert, plain, podman,
};

/// What is needed of a container; the rest of an answer may say what it likes.
const NEEDED: [&str; 7] = [
    "Id",
    "Names",
    "Image",
    "Labels",
    "State",
    "HostConfig",
    "NetworkSettings",
];

/// All containers and networks.
pub(super) async fn list(engine: &Engine) -> anyhow::Result<(Vec<Container>, Vec<Network>)> {
    let containers = containers(engine, None).await.context("list docker's containers");
    let networks = networks(engine).await?;
    let containers = containers?;
    let containers = containers.into_iter().filter_map(convert::listed);
    let containers = containers.map(|container| engine.own(container));
    let containers = if engine.is_podman {
        podman::with_modes(engine, containers).await
    } else {
        containers.collect()
    };
    Ok((containers, networks))
}

/// All networks.
pub(super) async fn networks(engine: &Engine) -> anyhow::Result<Vec<Network>> {
    if engine.is_podman {
        return podman::networks(engine).await;
    }
    let networks = answered(engine.docker.list_networks(None)).await;
    let networks = networks.context("list docker's networks")?;
    Ok(networks.into_iter().filter_map(convert::listed_network).collect())
}

/// One container as the list has it; for where it cannot be inspected.
pub(super) async fn find(engine: &Engine, id: &ContainerId) -> anyhow::Result<Option<Container>> {
    let found = containers(engine, Some(id)).await?;
    let found = found.into_iter().find_map(convert::listed);
    Ok(found.map(|container| engine.own(container)))
}

async fn containers(engine: &Engine, id: Option<&ContainerId>) -> anyhow::Result<Vec<ContainerSummary>> {
    let Engine { host, docker, .. } = engine;
    let options = ListContainersOptionsBuilder::default().all(true).build();
    let filters = id.map(|id| HashMap::from([("id".to_owned(), vec![id.full().to_owned()])]));
    match answered(docker.list_containers(Some(ListContainersOptions { filters, ..options }))).await {
        Err(error) if is_nonsense(&error) => {
            const TAKEN: &str = "docker's list of containers makes no sense, taking what does";
            match id {
                None => tracing::warn!(%error, "{TAKEN}"),
                // Asked for often, and Podman's own words are among what makes none.
                Some(id) => tracing::debug!(%id, %error, "{TAKEN}"),
            }
            // An id has no character that would have to be escaped.
            let filters = id.map(|id| format!("&filters=%7B%22id%22%3A%5B%22{}%22%5D%7D", id.full()));
            let version = docker.client_version();
            let filters = filters.unwrap_or_default();
            one_by_one(&plain::get(host, &format!("/v{version}/containers/json?all=true{filters}")).await?)
        }
        whole => Ok(whole?),
    }
}

/// Whether an answer came but is not what it should be: engines newer than this program have words it does not know.
pub(super) fn is_nonsense(error: &Error) -> bool {
    matches!(error, Error::JsonDataError { .. } | Error::JsonSerdeError { .. })
}

/// Reads each container of a list for itself, and leaves out those that make no sense.
fn one_by_one(list: &[u8]) -> anyhow::Result<Vec<ContainerSummary>> {
    let list: Vec<serde_json::Map<String, Value>> = serde_json::from_slice(list)?;
    let read = |container| serde_json::from_value(Value::Object(container));
    let containers = list.into_iter().filter_map(|mut container| {
        container.retain(|key, _value| NEEDED.contains(&key.as_str()));
        let id = container.get("Id").map(ToString::to_string);
        read(container.clone())
            .or_else(|_strange_state| {
                let state = container.remove("State");
                if let Some(state) = state.as_ref().and_then(Value::as_str).and_then(podman::state) {
                    container.insert("State".to_owned(), state.into());
                }
                read(container)
            })
            .inspect_err(|error| tracing::warn!(id, %error, "a container that makes no sense is left out"))
            .ok()
    });
    Ok(containers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[ContainerSummary]) -> Vec<&str> {
        list.iter()
            .map(|container| container.names.as_ref().unwrap()[0].as_str())
            .collect()
    }

    #[test]
    fn words_of_the_future_do_not_cost_a_container() {
        let list = br#"[{"Id": "a", "Names": ["/one"], "State": "running", "Mounts": [{"Type": "portal"}]},
            {"Id": "b", "Names": ["/two"], "State": "hibernating"}]"#;
        assert!(serde_json::from_slice::<Vec<ContainerSummary>>(list).is_err());
        assert_eq!(names(&one_by_one(list).unwrap()), ["/one", "/two"]);
    }

    #[test]
    fn podmans_own_states_are_put_into_dockers_words() {
        let list = br#"[{"Id": "a", "Names": ["/one"], "State": "stopped"}]"#;
        let list = one_by_one(list).unwrap();
        assert_eq!(list[0].state.unwrap().to_string(), "exited");
    }

    #[test]
    fn a_container_that_makes_no_sense_costs_no_other() {
        let list =
            br#"[{"Id": "a", "Names": ["/one"]}, {"Id": "b", "Names": 2}, {"Id": "c", "Names": ["/three"]}]"#;
        assert_eq!(names(&one_by_one(list).unwrap()), ["/one", "/three"]);
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        assert!(one_by_one(b"<html>").is_err());
        assert!(one_by_one(b"{}").is_err());
    }
}
