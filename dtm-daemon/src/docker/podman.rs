//! Podman: what it says otherwise than Docker, put into Docker's words.
//!
//! It answers Docker's questions, but names a network by its name where Docker has an id, tells of no network that it
//! makes or removes, and leaves out which bridge one is on. So a network's name is its id here, and networks are listed
//! in Podman's own words. Its list of containers lacks their network modes.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context as _;
use bollard::models::{EventMessage, EventMessageTypeEnum, SystemVersion};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::{
    Container, Network,
    ask::AT_ONCE,
    connect::{Engine, answered},
    convert, plain,
};

/// What it calls itself among the components of its version.
const COMPONENT: &str = "Podman Engine";

/// The list of networks in its own words. Every Podman from 4.0 on understands this version of them.
const NETWORKS: &str = "/v4.0.0/libpod/networks/json";

/// What its events have among a container's labels.
const OWN_ATTRIBUTES: [&str; 3] = ["containerExitCode", "exitCode", "podId"];

/// Whether an engine with this version is Podman.
pub(super) fn is_podman(version: &SystemVersion) -> bool {
    let mut components = version.components.iter().flatten();
    components.any(|component| component.name == COMPONENT)
}

/// Docker's word for a state that Docker does not have: one whose process has ended and that is not tidied up yet, and
/// those before the start.
pub(super) fn state(own: &str) -> Option<&'static str> {
    match own {
        "stopped" => Some("exited"),
        "configured" | "initialized" => Some("created"),
        _ => None,
    }
}

/// All networks.
pub(super) async fn networks(engine: &Engine) -> anyhow::Result<Vec<Network>> {
    let list = plain::get(&engine.host, NETWORKS).await;
    read_networks(&list.context("list podman's networks")?)
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    driver: String,
    /// The bridge, or the parent of its containers' devices.
    #[serde(default)]
    network_interface: String,
    #[serde(default)]
    subnets: Vec<ListedSubnet>,
}

#[derive(Deserialize)]
struct ListedSubnet {
    #[serde(default)]
    subnet: String,
}

fn read_networks(list: &[u8]) -> anyhow::Result<Vec<Network>> {
    let list: Vec<Listed> = serde_json::from_slice(list).context("read podman's networks")?;
    let network = |listed: Listed| {
        let is_bridge = listed.driver == "bridge" && !listed.network_interface.is_empty();
        let name: Arc<str> = listed.name.into();
        let subnets = listed.subnets.into_iter();
        Network {
            id: Arc::clone(&name),
            name,
            bridge: is_bridge.then(|| listed.network_interface.into()),
            driver: listed.driver.into(),
            subnets: subnets.filter_map(|listed| listed.subnet.parse().ok()).collect(),
        }
    };
    Ok(list.into_iter().map(network).collect())
}

/// A container of Podman's as Docker would have it.
pub(super) fn container(mut container: Container) -> Container {
    // Podman shows what the one has whose network it shares.
    if container.network_mode.starts_with("container:") {
        container.endpoints.clear();
    }
    for endpoint in &mut container.endpoints {
        endpoint.network_id = Arc::clone(&endpoint.network);
    }
    container
}

/// Listed containers with what the list does not say of those that have a process: who is in whose network. Without it
/// any of them could be the one that a namespace belongs to.
pub(super) async fn with_modes(
    engine: &Engine,
    containers: impl Iterator<Item = Container>,
) -> Vec<Container> {
    let ask = |listed: Container| async move {
        if !listed.has_process() || !listed.network_mode.is_empty() {
            return listed;
        }
        let asked = answered(engine.docker.inspect_container(listed.id.full(), None)).await;
        let inspected = asked.ok().and_then(convert::inspected).map(container);
        // One that has ended meanwhile is as it was listed.
        inspected
            .filter(|inspected| inspected.id == listed.id)
            .unwrap_or(listed)
    };
    stream::iter(containers.map(ask))
        .buffered(AT_ONCE)
        .collect()
        .await
}

/// An event of Podman's as Docker would have it; none that Docker has no word for.
pub(super) fn event(mut event: EventMessage) -> Option<EventMessage> {
    let is_connection = matches!(event.action.as_deref(), Some("connect" | "disconnect"));
    let is_of_network = event.typ == Some(EventMessageTypeEnum::NETWORK);
    if is_of_network && !is_connection {
        return None;
    }
    let actor = event.actor.as_mut();
    let attributes = actor.and_then(|actor| actor.attributes.as_mut());
    if is_of_network {
        // It is about the container, and does not say which network: what has become of the container is asked.
        event.typ = Some(EventMessageTypeEnum::CONTAINER);
        event.action = Some("update".to_owned());
        attributes.into_iter().for_each(HashMap::clear);
    } else if let Some(attributes) = attributes {
        attributes.retain(|name, _value| !OWN_ATTRIBUTES.contains(&name.as_str()));
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::{ContainerId, ContainerState, DockerUpdate, registry::Registry};

    const ID: &str = "20e9d1e509a3874e2ba71b90babcccb9d33573717dbcd9429d2d551d19dc8bf5";

    /// As Podman 4.3 tells them.
    fn told(typ: &str, action: &str) -> Option<EventMessage> {
        let json = serde_json::json!({
            "status": action, "id": ID, "Type": typ, "Action": action, "scope": "local",
            "Actor": {"ID": ID, "Attributes": {
                "containerExitCode": "0", "image": "docker.io/library/web:1", "name": "a", "podId": "", "tier": "front",
            }},
            "time": 1_795_638_187, "timeNano": 1_795_638_187_831_319_300_u64,
        });
        event(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn networks_have_their_bridges_and_are_known_by_their_names() {
        let list = br#"[{"name":"podman","id":"2f259bab93aa","driver":"bridge","network_interface":"podman0",
            "subnets":[{"subnet":"10.88.0.0/16","gateway":"10.88.0.1"}],"dns_enabled":false},
            {"name":"wire","id":"0c3048f1fc2b","driver":"macvlan","network_interface":"eth0"}]"#;
        let networks = read_networks(list).unwrap();
        let told: Vec<_> = networks
            .iter()
            .map(|network| (&*network.id, &*network.name, network.bridge.as_deref()))
            .collect();
        assert_eq!(
            told,
            [("podman", "podman", Some("podman0")), ("wire", "wire", None)]
        );
        assert!(read_networks(b"<html>").is_err());
    }

    #[test]
    fn an_endpoint_is_on_the_network_of_its_name() {
        let answer = |mode: &str| {
            let json = serde_json::json!({
                "Id": ID, "Name": "/a", "State": {"Status": "running"}, "HostConfig": {"NetworkMode": mode},
                "NetworkSettings": {"Networks": {"front": {
                    "NetworkID": "front", "EndpointID": "", "IPAddress": "10.89.0.2", "MacAddress": "e6:6e:3c:c2:f3:d7",
                }}},
            });
            container(convert::inspected(serde_json::from_value(json).unwrap()).unwrap())
        };
        let own = answer("bridge");
        assert_eq!((&*own.endpoints[0].network_id, own.endpoints.len()), ("front", 1));
        assert!(answer(&format!("container:{ID}")).endpoints.is_empty());
    }

    #[test]
    fn a_container_is_told_of_without_podmans_own_words() {
        let mut registry = Registry::default();
        let created = registry.on_event(told("container", "create").unwrap());
        let Some(DockerUpdate::Container(created)) = created else {
            panic!("{created:?}");
        };
        assert_eq!((&*created.name, created.state), ("a", ContainerState::Created));
        assert_eq!(created.labels.keys().collect::<Vec<_>>(), ["tier"]);
    }

    #[test]
    fn a_connection_is_a_question_about_the_container() {
        let mut registry = Registry::default();
        registry.on_event(told("container", "create").unwrap());
        assert!(registry.next_question().is_some());
        let answer = Some(container(convert::announced(
            ContainerId::parse(ID).unwrap(),
            &[("name".to_owned(), "a".to_owned())].into(),
        )));
        registry.on_container_answer(&ContainerId::parse(ID).unwrap(), answer);
        assert_eq!(registry.next_question(), None);
        assert_eq!(registry.on_event(told("network", "connect").unwrap()), None);
        assert!(registry.next_question().is_some());
        assert_eq!(told("network", "create"), None);
    }
}
