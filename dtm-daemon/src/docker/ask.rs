//! Questions on their way to the engine: several at once, and never more than it can take.

use std::sync::Arc;

use anyhow::Context as _;
use bollard::errors::Error;
use tokio::task::JoinSet;

use super::{
    Container, ContainerId, DockerUpdate, Network,
    connect::{Engine, answered},
    convert,
    list::{self, find},
    registry::{Question, Registry},
};

/// How many answers are waited for at once. An inspect waits while its container is being started, so more than a
/// busy host starts at a time; the others take the engine a millisecond each.
pub(super) const AT_ONCE: usize = 16;

/// Questions that are not answered yet. They end with it.
pub(super) struct Questions {
    engine: Arc<Engine>,
    waiting: JoinSet<Answer>,
}

/// What came back; nothing where the engine does not know or does not say.
enum Answer {
    Container(ContainerId, Option<Container>),
    Network(Option<Network>),
    /// Of which there may be more to know.
    Networks(Vec<Network>),
    /// With everything there is to know of them.
    AllNetworks(Vec<Network>),
}

impl Questions {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine: Arc::new(engine),
            waiting: JoinSet::new(),
        }
    }

    /// Asks what the registry wants to know, as far as there is room.
    pub(super) fn ask(&mut self, registry: &mut Registry) {
        while self.waiting.len() < AT_ONCE {
            let Some(question) = registry.next_question() else {
                return;
            };
            let engine = Arc::clone(&self.engine);
            self.waiting.spawn(async move {
                match question {
                    Question::Container(id) => {
                        let container = container(&engine, &id).await;
                        Answer::Container(id, container)
                    }
                    Question::Network(id) => Answer::Network(network(&engine, &id).await),
                    Question::Networks => networks(&engine).await,
                }
            });
        }
    }

    /// The next answer and what it changes; waits for ever while no question is on its way.
    pub(super) async fn answer(&mut self, registry: &mut Registry) -> anyhow::Result<Vec<DockerUpdate>> {
        let Some(answer) = self.waiting.join_next().await else {
            return std::future::pending().await;
        };
        let update = match answer.context("ask docker")? {
            Answer::Container(id, container) => registry.on_container_answer(&id, container),
            Answer::Network(network) => network.and_then(|network| registry.on_network_answer(network)),
            Answer::Networks(networks) => {
                registry.on_networks_answer(&networks);
                None
            }
            Answer::AllNetworks(networks) => return Ok(registry.on_all_networks(&networks)),
        };
        Ok(Vec::from_iter(update))
    }
}

async fn container(engine: &Engine, id: &ContainerId) -> Option<Container> {
    let error = match answered(engine.docker.inspect_container(id.full(), None)).await {
        Ok(answer) => return convert::inspected(answer).map(|container| engine.own(container)),
        Err(error) if is_gone(&error) => return None,
        Err(error) => error,
    };
    // The list asks for no lock and has fewer words to misunderstand.
    tracing::debug!(container = %id, %error, "cannot inspect a container, looking it up in the list");
    match find(engine, id).await {
        Ok(container) => container,
        Err(error) => {
            complain("container", id.short(), &error);
            None
        }
    }
}

async fn network(engine: &Engine, id: &Arc<str>) -> Option<Network> {
    match answered(engine.docker.inspect_network(id, None)).await {
        Ok(answer) => convert::inspected_network(answer),
        Err(error) if is_gone(&error) => None,
        Err(error) => {
            complain("network", id, &error.into());
            None
        }
    }
}

async fn networks(engine: &Engine) -> Answer {
    match list::networks(engine).await {
        Ok(networks) if engine.is_podman => Answer::AllNetworks(networks),
        Ok(networks) => Answer::Networks(networks),
        Err(error) => {
            if !is_silent(&error) {
                tracing::warn!(
                    error = format_args!("{error:#}"),
                    "docker does not say which networks there are"
                );
            }
            Answer::Networks(Vec::new())
        }
    }
}

fn complain(kind: &str, id: &str, error: &anyhow::Error) {
    if !is_silent(error) {
        let error = format_args!("{error:#}");
        tracing::warn!(id, error, "docker does not say what this {kind} is");
    }
}

/// Whether nobody answers at all: the stream of events ends too then, and that is said.
fn is_silent(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref();
    error.is_some_and(|error| matches!(error, Error::HyperLegacyError { .. }))
}

/// Whether it was there and is not any more; what its events said stands.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}
