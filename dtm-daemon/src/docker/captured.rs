//! What real engines answered, read as the daemon reads it: 20.10 (API 1.41) and a current one (API 1.53).
//!
//! The scene: `www`, created as `web` on `front` with hostile labels and then connected to `back`; one container each
//! on the default bridge, the host's network, `www`'s network and none; `short`, which is gone at once.

use std::collections::BTreeMap;

use bollard::models::{ContainerInspectResponse, ContainerSummary, EventMessage, Network as NetworkAnswer};
use serde::de::DeserializeOwned;

use super::{
    Container, ContainerState, DockerUpdate, Endpoint, Network, convert,
    registry::{Question, Registry},
};

struct Engine {
    list: &'static str,
    inspect: &'static str,
    networks: &'static str,
    events: &'static str,
}

const ENGINES: [Engine; 2] = [
    Engine {
        list: include_str!("captured/20.10/list.json"),
        inspect: include_str!("captured/20.10/inspect.json"),
        networks: include_str!("captured/20.10/networks.json"),
        events: include_str!("captured/20.10/events.jsonl"),
    },
    Engine {
        list: include_str!("captured/current/list.json"),
        inspect: include_str!("captured/current/inspect.json"),
        networks: include_str!("captured/current/networks.json"),
        events: include_str!("captured/current/events.jsonl"),
    },
];

fn read<T: DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap()
}

impl Engine {
    fn containers(&self) -> Vec<Container> {
        let list: Vec<ContainerSummary> = read(self.list);
        list.into_iter()
            .map(|summary| convert::listed(summary).unwrap())
            .collect()
    }

    fn container(&self, name: &str) -> Container {
        let mut containers = self.containers().into_iter();
        containers.find(|container| &*container.name == name).unwrap()
    }

    fn inspected(&self) -> Container {
        convert::inspected(read::<ContainerInspectResponse>(self.inspect)).unwrap()
    }

    fn networks(&self) -> Vec<Network> {
        let networks: Vec<NetworkAnswer> = read(self.networks);
        networks
            .into_iter()
            .map(|network| convert::listed_network(network).unwrap())
            .collect()
    }

    fn network(&self, name: &str) -> Network {
        let mut networks = self.networks().into_iter();
        networks.find(|network| &*network.name == name).unwrap()
    }

    fn events(&self) -> impl Iterator<Item = EventMessage> {
        self.events.lines().map(read)
    }
}

fn networks_of(container: &Container) -> Vec<&str> {
    container
        .endpoints
        .iter()
        .map(|endpoint| &*endpoint.network)
        .collect()
}

#[test]
fn a_list_tells_names_modes_and_endpoints() {
    for engine in ENGINES {
        let www = engine.container("www");
        assert_eq!(
            (&*www.image, &*www.network_mode, www.state),
            ("bb:1", "front", ContainerState::Running)
        );
        assert_eq!(networks_of(&www), ["back", "front"]);
        assert_eq!(engine.container("deflt").network_mode.as_ref(), "bridge");
        assert_eq!(networks_of(&engine.container("deflt")), ["bridge"]);
        assert_eq!(engine.container("hostc").network_mode.as_ref(), "host");
        assert_eq!(engine.container("nonet").network_mode.as_ref(), "none");
        let side = engine.container("side");
        assert_eq!(*side.network_mode, format!("container:{}", www.id.full()));
        assert!(side.endpoints.is_empty());
    }
}

#[test]
fn an_endpoint_has_its_hardware_address_and_both_ips() {
    for engine in ENGINES {
        let www = engine.container("www");
        let Endpoint {
            network_id,
            mac,
            addresses,
            ..
        } = &www.endpoints[1];
        assert_eq!(*network_id, engine.network("front").id);
        assert!(mac.is_some());
        assert_eq!(
            *addresses,
            ["172.18.0.2", "fd00:5::2"].map(|address| address.parse::<std::net::IpAddr>().unwrap())
        );
    }
}

#[test]
fn an_inspection_agrees_with_the_list_and_adds_the_start() {
    for engine in ENGINES {
        let inspected = engine.inspected();
        assert!(inspected.started_at.unwrap() > 1.7e9);
        let listed = Container {
            started_at: inspected.started_at,
            ..engine.container("www")
        };
        assert_eq!(inspected, listed);
    }
}

#[test]
fn hostile_labels_are_labels_and_nothing_else() {
    for engine in ENGINES {
        let labels = [
            ("com.docker.compose.project", "shop"),
            ("name", "evil"),
            ("tier", "front \"x\""),
        ];
        let labels = BTreeMap::from(labels.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(engine.inspected().labels, labels);
        assert_eq!(&*engine.inspected().name, "www");
    }
}

#[test]
fn networks_have_their_bridges() {
    for engine in ENGINES {
        let bridge_of = |name| engine.network(name).bridge;
        assert_eq!(bridge_of("bridge").as_deref(), Some("docker0"));
        assert_eq!(bridge_of("back").as_deref(), Some("brx"));
        let front = engine.network("front");
        assert_eq!(front.bridge.as_deref(), Some(&*format!("br-{}", &front.id[..12])));
        assert_eq!((bridge_of("host"), bridge_of("none")), (None, None));
        assert_eq!(&*engine.network("none").driver, "null");
    }
}

#[test]
fn a_short_life_is_told_whole_by_its_events_alone() {
    for engine in ENGINES {
        let mut registry = Registry::default();
        let updates = engine.events().filter_map(|event| registry.on_event(event));
        let mut life = Vec::new();
        let mut id = None;
        for update in updates {
            match update {
                DockerUpdate::Container(container) if &*container.name == "short" => {
                    id = Some(container.id.clone());
                    life.push(format!(
                        "{} {:?}",
                        container.state.as_str(),
                        networks_of(&container)
                    ));
                }
                DockerUpdate::Died(died) if Some(&died) == id.as_ref() => life.push("died".to_owned()),
                DockerUpdate::Destroyed(gone) if Some(&gone) == id.as_ref() => life.push("gone".to_owned()),
                _ => {}
            }
        }
        assert_eq!(
            life[..3],
            ["created []", "created [\"front\"]", "running [\"front\"]"]
        );
        assert_eq!(life.len(), 6, "{life:?}");
        assert!(life.contains(&"died".to_owned()));
        assert_eq!(life[5], "gone");
    }
}

#[test]
fn nothing_is_left_when_all_events_are_through() {
    for engine in ENGINES {
        let mut registry = Registry::default();
        registry.listed(&mut [], &[]);
        let mut names = BTreeMap::new();
        for event in engine.events() {
            match registry.on_event(event) {
                Some(DockerUpdate::Container(container)) => {
                    names.insert(container.id, container.name);
                }
                Some(DockerUpdate::Destroyed(id)) => {
                    names.remove(&id).expect("a container that was told about");
                }
                _ => {}
            }
        }
        assert!(names.is_empty(), "{names:?}");
        assert_eq!(registry.next_question(), None, "what is gone is not asked about");
    }
}

#[test]
fn a_listed_container_is_asked_about_while_it_runs() {
    for engine in ENGINES {
        let mut registry = Registry::default();
        let mut containers = engine.containers();
        containers[0].state = ContainerState::Exited;
        registry.listed(&mut containers, &engine.networks());
        let asked: Vec<_> = std::iter::from_fn(|| registry.next_question()).collect();
        let running = containers[1..]
            .iter()
            .map(|container| Question::Container(container.id.clone()));
        assert_eq!(asked, running.collect::<Vec<_>>());
    }
}
