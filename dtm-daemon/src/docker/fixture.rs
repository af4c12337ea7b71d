//! Containers and networks for tests.

use std::{collections::BTreeMap, sync::Arc};

use super::{Container, ContainerId, ContainerState, Endpoint, Network};

/// The id that has only this hexadecimal digit.
pub(crate) fn id(digit: char) -> ContainerId {
    ContainerId::parse(&String::from(digit).repeat(64)).unwrap()
}

/// A running container of that id, called `name-<digit>`, in this network mode and on these networks, by whose names they
/// are known.
pub(crate) fn container(digit: char, mode: &str, networks: &[&str]) -> Container {
    let endpoint = |network: &&str| Endpoint {
        network: Arc::from(*network),
        network_id: Arc::from(*network),
        mac: None,
        addresses: Vec::new(),
    };
    Container {
        id: id(digit),
        name: Arc::from(format!("name-{digit}")),
        image: Arc::from("image"),
        labels: BTreeMap::new(),
        network_mode: Arc::from(mode),
        state: ContainerState::Running,
        started_at: None,
        endpoints: networks.iter().map(endpoint).collect(),
    }
}

/// A network that is known by its name.
pub(crate) fn network(name: &str, driver: &str, bridge: Option<&str>) -> Network {
    Network {
        id: Arc::from(name),
        name: Arc::from(name),
        driver: Arc::from(driver),
        bridge: bridge.map(Arc::from),
        subnets: Vec::new(),
    }
}
