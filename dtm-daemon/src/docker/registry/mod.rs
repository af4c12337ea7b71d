//! What is known of the engine's containers and networks, what an event means for them, and what to ask next.
//!
//! An event is told at once, from what it says itself: a container may be gone before the engine answers a question
//! about it. An answer may be older than events that came while it was waited for, so it only says how things were
//! when nothing has happened since; otherwise it only adds what cannot change, and the question is asked again.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bollard::models::{EventMessage, EventMessageTypeEnum};

use super::{Container, ContainerId, ContainerState, DockerUpdate, Endpoint, Network, convert};

/// What to ask the engine for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The details of a container.
    Container(ContainerId),
    /// The details of a network, by its id.
    Network(Arc<str>),
    /// Which networks there are.
    Networks,
}

/// Everything as of the last word about it.
#[derive(Debug, Default)]
pub(super) struct Registry {
    containers: HashMap<ContainerId, Known>,
    networks: HashSet<Arc<str>>,
    /// Those of an engine that tells all of them at once.
    told_at_once: Vec<Network>,
    /// Asked first: something happened there.
    urgent: VecDeque<Question>,
    /// Asked when there is nothing else to ask.
    background: VecDeque<ContainerId>,
}

#[derive(Debug)]
struct Known {
    container: Container,
    /// How many events were about it.
    events: u64,
    question: Asked,
}

/// How far the question about a container has got. There is never more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    Queued,
    /// On its way to the engine since this many events.
    At(u64),
}

impl Known {
    fn new(container: Container) -> Self {
        Self {
            container,
            events: 0,
            question: Asked::No,
        }
    }
}

/// What an event says besides its type: what happened to whom.
struct Event<'a> {
    action: &'a str,
    id: &'a str,
    attributes: HashMap<String, String>,
    /// Seconds since the epoch.
    time: Option<f64>,
}

impl Registry {
    /// Takes in all there is, of an engine that has just answered. Questions on their way are void.
    pub(super) fn listed(&mut self, containers: &mut [Container], networks: &[Network]) {
        let mut before = std::mem::take(self);
        for container in containers {
            if let Some(known) = before.containers.remove(&container.id) {
                let Container {
                    image, started_at, ..
                } = known.container;
                // The list shows an image's id once its name has moved on to another image, and no start times.
                container.image = image;
                container.started_at = started_at;
            }
            let mut known = Known::new(container.clone());
            if container.has_process() {
                // The list does not say since when it runs.
                known.question = Asked::Queued;
                self.background.push_back(container.id.clone());
            }
            self.containers.insert(container.id.clone(), known);
        }
        self.networks = networks.iter().map(|network| Arc::clone(&network.id)).collect();
        self.told_at_once = networks.to_vec();
    }

    /// Takes in an event, and returns what it says by itself.
    pub(super) fn on_event(&mut self, event: EventMessage) -> Option<DockerUpdate> {
        let EventMessage {
            typ,
            action,
            actor,
            time_nano,
            ..
        } = event;
        let (action, actor) = (action?, actor?);
        let event = Event {
            action: &action,
            id: &actor.id?,
            attributes: actor.attributes.unwrap_or_default(),
            time: time_nano.map(|nanoseconds| nanoseconds as f64 / 1e9),
        };
        match typ? {
            EventMessageTypeEnum::CONTAINER => self.on_container(&event),
            EventMessageTypeEnum::NETWORK => self.on_network(event),
            _ => None,
        }
    }

    fn on_container(&mut self, event: &Event<'_>) -> Option<DockerUpdate> {
        let id = ContainerId::parse(event.id)?;
        match event.action {
            "create" | "start" | "restart" | "rename" | "pause" | "unpause" | "update" => {}
            // Podman has words of its own for these two.
            "die" | "died" => {
                let known = self.containers.get_mut(&id)?;
                known.container.state = ContainerState::Exited;
                known.events += 1;
                // It may be about to start again, which only the engine knows.
                self.inquire(&id);
                return Some(DockerUpdate::Died(id));
            }
            "destroy" | "remove" => {
                return self
                    .containers
                    .remove(&id)
                    .map(|_known| DockerUpdate::Destroyed(id));
            }
            _ => return None,
        }
        let before = self.containers.get(&id).map(|known| known.container.clone());
        let known = self
            .containers
            .entry(id.clone())
            .or_insert_with(|| Known::new(convert::announced(id.clone(), &event.attributes)));
        known.events += 1;
        match event.action {
            // Already known from an answer that was quicker, and more exact.
            "start"
                if known.container.state == ContainerState::Running
                    && known.container.started_at.is_some() => {}
            "start" => {
                known.container.state = ContainerState::Running;
                known.container.started_at = event.time;
            }
            "pause" => known.container.state = ContainerState::Paused,
            "unpause" => known.container.state = ContainerState::Running,
            _ => {}
        }
        if let Some(name) = event.attributes.get("name") {
            known.container.name = convert::without_slash(name);
        }
        let update = news(before.as_ref(), known);
        self.inquire(&id);
        update
    }

    fn on_network(&mut self, event: Event<'_>) -> Option<DockerUpdate> {
        let Event {
            action,
            id: network_id,
            mut attributes,
            ..
        } = event;
        match action {
            "create" | "update" => {
                let network: Arc<str> = network_id.into();
                let is_new = self.networks.insert(Arc::clone(&network));
                self.urgent.push_back(Question::Network(network));
                is_new
                    .then(|| convert::announced_network(network_id, &attributes))
                    .flatten()
                    .map(DockerUpdate::Network)
            }
            "destroy" | "remove" => {
                self.networks.remove(network_id);
                Some(DockerUpdate::NetworkRemoved(network_id.into()))
            }
            "connect" | "disconnect" => {
                let id = ContainerId::parse(attributes.get("container")?)?;
                let known = self.containers.get_mut(&id)?;
                known.events += 1;
                let before = known.container.clone();
                let endpoints = &mut known.container.endpoints;
                let is_known = endpoints
                    .iter()
                    .any(|endpoint| &*endpoint.network_id == network_id);
                if action == "disconnect" {
                    endpoints.retain(|endpoint| &*endpoint.network_id != network_id);
                } else if !is_known && let Some(name) = attributes.remove("name") {
                    endpoints.push(Endpoint {
                        network: name.into(),
                        network_id: network_id.into(),
                        mac: None,
                        addresses: Vec::new(),
                    });
                    endpoints.sort_by(|one, other| one.network.cmp(&other.network));
                }
                let update = news(Some(&before), known);
                self.inquire(&id);
                update
            }
            _ => None,
        }
    }

    /// Sees to it that the engine is asked about a container, after everything that has happened to it so far.
    fn inquire(&mut self, id: &ContainerId) {
        if let Some(known) = self.containers.get_mut(id)
            && known.question == Asked::No
        {
            known.question = Asked::Queued;
            self.urgent.push_back(Question::Container(id.clone()));
        }
    }

    /// What to ask now, if anything; its answer is waited for.
    pub(super) fn next_question(&mut self) -> Option<Question> {
        loop {
            let question = self
                .urgent
                .pop_front()
                .or_else(|| self.background.pop_front().map(Question::Container))?;
            match &question {
                Question::Container(id) => {
                    if let Some(known) = self.containers.get_mut(id) {
                        known.question = Asked::At(known.events);
                        return Some(question);
                    }
                }
                Question::Networks => return Some(question),
                Question::Network(id) => {
                    if self.networks.contains(id) {
                        return Some(question);
                    }
                }
            }
        }
    }

    /// Takes in what the engine said about a container, or that it said nothing, and returns what is new.
    pub(super) fn on_container_answer(
        &mut self,
        id: &ContainerId,
        answer: Option<Container>,
    ) -> Option<DockerUpdate> {
        let known = self.containers.get_mut(id)?;
        let asked_at = std::mem::replace(&mut known.question, Asked::No);
        let is_current = asked_at == Asked::At(known.events);
        let before = known.container.clone();
        // What answers for another container does not answer for this one.
        if let Some(answer) = answer.filter(|answer| answer.id == *id) {
            if is_current {
                let started_at = answer.started_at.or(before.started_at);
                // Podman's list, which answers where an inspection fails, has none; a container's never changes.
                let network_mode = if answer.network_mode.is_empty() {
                    Arc::clone(&before.network_mode)
                } else {
                    Arc::clone(&answer.network_mode)
                };
                known.container = Container {
                    network_mode,
                    started_at,
                    ..answer
                };
            } else {
                add_details(&mut known.container, answer);
            }
        }
        let update = news(Some(&before), known);
        if !is_current {
            self.inquire(id);
        }
        update
    }

    /// Sees to it that the engine is asked which networks there are: it does not tell of all that it makes.
    pub(super) fn ask_for_networks(&mut self) {
        self.urgent.push_back(Question::Networks);
    }

    /// Takes in which networks there are, and sees to it that the engine is asked about those it did not tell of.
    pub(super) fn on_networks_answer(&mut self, networks: &[Network]) {
        for network in networks {
            if self.networks.insert(Arc::clone(&network.id)) {
                self.urgent.push_back(Question::Network(Arc::clone(&network.id)));
            }
        }
    }

    /// Takes in all networks there are and everything about them, of an engine that tells of none when it is made or
    /// removed; returns what is new.
    pub(super) fn on_all_networks(&mut self, networks: &[Network]) -> Vec<DockerUpdate> {
        let before = std::mem::replace(&mut self.told_at_once, networks.to_vec());
        let gone = before
            .iter()
            .filter(|known| networks.iter().all(|network| network.id != known.id));
        let gone = gone.map(|network| DockerUpdate::NetworkRemoved(Arc::clone(&network.id)));
        let new = networks.iter().filter(|network| !before.contains(network));
        gone.chain(new.cloned().map(DockerUpdate::Network)).collect()
    }

    /// Takes in what the engine said about a network.
    pub(super) fn on_network_answer(&mut self, answer: Network) -> Option<DockerUpdate> {
        self.networks
            .contains(&answer.id)
            .then_some(DockerUpdate::Network(answer))
    }
}

/// The container, where it is not as it was.
fn news(before: Option<&Container>, known: &Known) -> Option<DockerUpdate> {
    (before != Some(&known.container)).then(|| DockerUpdate::Container(known.container.clone()))
}

/// Adds what an answer from before the last events knows better than those: what never changes, and the addresses of
/// endpoints that are still there.
fn add_details(container: &mut Container, answer: Container) {
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
    container.image = image;
    container.labels = labels;
    container.network_mode = network_mode;
    for endpoint in &mut container.endpoints {
        let addressless = endpoint.mac.is_none() && endpoint.addresses.is_empty();
        let detailed = endpoints
            .iter()
            .find(|other| other.network_id == endpoint.network_id);
        if let Some(detailed) = detailed.filter(|_endpoint| addressless) {
            *endpoint = detailed.clone();
        }
    }
}

#[cfg(test)]
mod tests;
