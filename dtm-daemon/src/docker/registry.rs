//! What is known of the containers, so that answers that come late do not undo what happened since.

use std::{collections::HashMap, sync::Arc};

use bollard::models::{EventActor, EventMessage, EventMessageTypeEnum};

use super::{Container, ContainerId, ContainerState, DockerUpdate, convert};

/// Containers as of the last word about each.
#[derive(Debug, Default)]
pub(super) struct Registry {
    containers: HashMap<ContainerId, Known>,
}

#[derive(Debug)]
struct Known {
    container: Container,
    /// How many events were about it: an inspect asked for before the last of them is out of date.
    revision: u64,
}

/// What to ask the engine for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The details of a container, as of this revision.
    Container(ContainerId, u64),
    /// The details of a network.
    Network(String),
}

/// What an event means: what is known at once, and what to ask for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Consequence {
    pub(super) update: Option<DockerUpdate>,
    pub(super) question: Option<Question>,
}

impl Registry {
    /// Takes in the list, and returns what to ask for: a list does not say when a container started.
    pub(super) fn listed(&mut self, containers: &[Container]) -> Vec<Question> {
        let known = containers.iter().map(|container| {
            let known = Known {
                container: container.clone(),
                revision: 0,
            };
            (container.id.clone(), known)
        });
        self.containers = known.collect();
        let runs = |container: &&Container| {
            matches!(container.state, ContainerState::Running | ContainerState::Paused)
        };
        containers
            .iter()
            .filter(runs)
            .map(|container| Question::Container(container.id.clone(), 0))
            .collect()
    }

    /// Takes in an event.
    pub(super) fn on_event(&mut self, event: EventMessage) -> Consequence {
        let EventMessage {
            typ,
            action,
            actor,
            time_nano,
            ..
        } = event;
        let (Some(action), Some(actor)) = (action, actor) else {
            return Consequence::default();
        };
        match typ {
            Some(EventMessageTypeEnum::CONTAINER) => {
                let started_at = time_nano.map(|nanoseconds| nanoseconds as f64 / 1e9);
                self.on_container(&action, &actor, started_at).unwrap_or_default()
            }
            Some(EventMessageTypeEnum::NETWORK) => self.on_network(&action, actor),
            _ => Consequence::default(),
        }
    }

    fn on_container(&mut self, action: &str, actor: &EventActor, time: Option<f64>) -> Option<Consequence> {
        let id = ContainerId::parse(actor.id.as_deref()?)?;
        match action {
            "die" => {
                if let Some(known) = self.containers.get_mut(&id) {
                    known.container.state = ContainerState::Exited;
                    known.revision += 1;
                }
                return Some(Consequence {
                    update: Some(DockerUpdate::Died(id)),
                    question: None,
                });
            }
            "destroy" => {
                self.containers.remove(&id);
                return Some(Consequence {
                    update: Some(DockerUpdate::Destroyed(id)),
                    question: None,
                });
            }
            "create" | "start" | "rename" | "pause" | "unpause" | "update" => {}
            _ => return None,
        }
        let announced = convert::announced(actor, ContainerState::Created)?;
        let known = self.containers.entry(id.clone()).or_insert_with(|| Known {
            container: announced.clone(),
            revision: 0,
        });
        known.revision += 1;
        let container = &mut known.container;
        match action {
            "start" => {
                container.state = ContainerState::Running;
                container.started_at = time;
            }
            "rename" => container.name = announced.name,
            "pause" => container.state = ContainerState::Paused,
            "unpause" => container.state = ContainerState::Running,
            _ => {}
        }
        Some(Consequence {
            update: Some(DockerUpdate::Container(container.clone())),
            question: Some(Question::Container(id, known.revision)),
        })
    }

    fn on_network(&mut self, action: &str, actor: EventActor) -> Consequence {
        let EventActor { id, attributes } = actor;
        let Some(network) = id else {
            return Consequence::default();
        };
        match action {
            "create" | "update" => Consequence {
                update: None,
                question: Some(Question::Network(network)),
            },
            "destroy" => Consequence {
                update: Some(DockerUpdate::NetworkRemoved(Arc::from(network))),
                question: None,
            },
            "connect" | "disconnect" => {
                let container = attributes.and_then(|mut attributes| attributes.remove("container"));
                let known = container.and_then(|id| ContainerId::parse(&id)).and_then(|id| {
                    let revision = self.containers.get(&id)?.revision;
                    Some(Question::Container(id, revision))
                });
                Consequence {
                    update: None,
                    question: known,
                }
            }
            _ => Consequence::default(),
        }
    }

    /// Takes in the answer to a question that was asked at `revision`.
    pub(super) fn on_inspected(&mut self, answer: Container, revision: u64) -> Option<DockerUpdate> {
        let known = self.containers.get_mut(&answer.id)?;
        if known.revision == revision {
            let started_at = answer.started_at.or(known.container.started_at);
            known.container = Container { started_at, ..answer };
        } else {
            // Something happened since: what changes stays as the events told, what does not is welcome.
            let Container {
                id: _,
                name: _,
                image,
                labels,
                network_mode,
                state: _,
                started_at: _,
                endpoints,
            } = answer;
            let container = &mut known.container;
            container.image = image;
            container.labels = labels;
            container.network_mode = network_mode;
            if container.endpoints.is_empty() {
                container.endpoints = endpoints;
            }
        }
        Some(DockerUpdate::Container(known.container.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn id() -> ContainerId {
        ContainerId::parse(&"a".repeat(64)).unwrap()
    }

    fn event(typ: EventMessageTypeEnum, action: &str, id: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let attributes: HashMap<_, _> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(id.to_owned()),
                attributes: Some(attributes),
            }),
            time_nano: Some(5_500_000_000),
            ..EventMessage::default()
        }
    }

    fn of_container(action: &str, name: &str) -> EventMessage {
        event(
            EventMessageTypeEnum::CONTAINER,
            action,
            id().full(),
            &[("name", name), ("image", "nginx")],
        )
    }

    fn told(consequence: Consequence) -> Container {
        match consequence.update {
            Some(DockerUpdate::Container(container)) => container,
            other => panic!("no container but {other:?}"),
        }
    }

    #[test]
    fn a_container_is_known_by_name_from_its_first_event() {
        let mut registry = Registry::default();
        let consequence = registry.on_event(of_container("create", "web"));
        assert_eq!(consequence.question, Some(Question::Container(id(), 1)));
        assert_eq!(&*told(consequence).name, "web");
        let started = told(registry.on_event(of_container("start", "web")));
        assert_eq!(
            (started.state, started.started_at),
            (ContainerState::Running, Some(5.5))
        );
    }

    #[test]
    fn a_late_answer_does_not_raise_the_dead() {
        let mut registry = Registry::default();
        let running = told(registry.on_event(of_container("start", "web")));
        registry.on_event(of_container("die", "web"));
        let answer = Container {
            network_mode: Arc::from("front"),
            ..running
        };
        let Some(DockerUpdate::Container(merged)) = registry.on_inspected(answer, 1) else {
            panic!("an update")
        };
        assert_eq!(merged.state, ContainerState::Exited);
        assert_eq!(&*merged.network_mode, "front");
    }

    #[test]
    fn a_late_answer_does_not_undo_a_rename() {
        let mut registry = Registry::default();
        let before = told(registry.on_event(of_container("start", "web")));
        registry.on_event(of_container("rename", "www"));
        let Some(DockerUpdate::Container(merged)) = registry.on_inspected(before, 1) else {
            panic!("an update")
        };
        assert_eq!(&*merged.name, "www");
    }

    #[test]
    fn an_answer_about_a_destroyed_container_is_dropped() {
        let mut registry = Registry::default();
        let running = told(registry.on_event(of_container("start", "web")));
        registry.on_event(of_container("destroy", "web"));
        assert_eq!(registry.on_inspected(running, 1), None);
    }

    #[test]
    fn connecting_to_a_network_asks_for_the_endpoints() {
        let mut registry = Registry::default();
        registry.on_event(of_container("create", "web"));
        let connect = event(
            EventMessageTypeEnum::NETWORK,
            "connect",
            "front",
            &[("container", id().full())],
        );
        assert_eq!(
            registry.on_event(connect).question,
            Some(Question::Container(id(), 1))
        );
    }

    #[test]
    fn what_is_no_news_has_no_consequence() {
        let mut registry = Registry::default();
        for action in ["exec_start: sh", "top", "health_status: healthy", "attach"] {
            assert_eq!(
                registry.on_event(of_container(action, "web")),
                Consequence::default(),
                "{action}"
            );
        }
        assert_eq!(registry.on_event(EventMessage::default()), Consequence::default());
    }
}
