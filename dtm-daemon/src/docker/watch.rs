//! Watching the engine for as long as the daemon lives. Only GET requests: a read-only proxy is enough.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow};
use bollard::{
    Docker,
    errors::Error,
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder},
};
use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Container, DockerUpdate, Network,
    connect::connect,
    convert,
    registry::{Consequence, Question, Registry},
};
use crate::config::DockerHost;

/// The first pause before another try; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// How many answers are waited for at once: an engine serves them from one lock each.
const QUESTIONS_AT_ONCE: usize = 8;

/// How often a silent engine is asked whether it is still there: a lost TCP connection says nothing.
const PING_EVERY: Duration = Duration::from_secs(30);

/// An answer to a question.
enum Answer {
    Container(Container, u64),
    Network(Network),
}

/// Tells `updates` what the engine says, until `cancel` or until nobody listens. Reconnects for ever.
pub async fn watch(host: DockerHost, updates: mpsc::Sender<DockerUpdate>, cancel: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut answered = false;
        let reason = tokio::select! {
            () = cancel.cancelled() => return,
            reason = session(&host, &updates, &mut answered) => reason,
        };
        if answered {
            pause = FIRST_PAUSE;
        }
        if updates
            .send(DockerUpdate::Down(format!("{reason:#}")))
            .await
            .is_err()
        {
            return;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(jittered(pause)) => {}
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// One connection's life: why it ended. `answered` is set once the engine has listed what there is.
async fn session(
    host: &DockerHost,
    updates: &mpsc::Sender<DockerUpdate>,
    answered: &mut bool,
) -> anyhow::Error {
    match try_session(host, updates, answered).await {
        Ok(()) => anyhow!("the stream of docker's events ended"),
        Err(error) => error,
    }
}

async fn try_session(
    host: &DockerHost,
    updates: &mpsc::Sender<DockerUpdate>,
    answered: &mut bool,
) -> anyhow::Result<()> {
    let docker = connect(host).await?;
    let version = docker
        .version()
        .await
        .context("ask docker for its version")?
        .version
        .unwrap_or_default();
    // Events from before the subscription is through are asked for again: nothing falls in between.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
    let mut events = pin!(docker.events(Some(EventsOptionsBuilder::default().since(&since).build())));
    let mut listing = pin!(list(&docker));
    // The stream only starts when it is polled, so both are polled together.
    let mut early = Vec::new();
    let (containers, networks) = loop {
        tokio::select! {
            event = events.next() => early.push(event.context("the stream of docker's events ended")??),
            listed = &mut listing => break listed?,
        }
    };
    let mut registry = Registry::default();
    let mut questions = Questions::new(docker.clone());
    for question in registry.listed(&containers) {
        questions.ask(question);
    }
    updates
        .send(DockerUpdate::Listed {
            containers,
            networks,
            version: Arc::from(version),
        })
        .await?;
    *answered = true;
    for event in early {
        act(registry.on_event(event), updates, &mut questions).await?;
    }
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            event = events.next() => {
                let Some(event) = event else { return Ok(()) };
                let event = event.context("read docker's events")?;
                act(registry.on_event(event), updates, &mut questions).await?;
            }
            Some(answer) = questions.pending.join_next() => {
                let update = match answer.context("ask docker")? {
                    Some(Answer::Container(container, revision)) => registry.on_inspected(container, revision),
                    Some(Answer::Network(network)) => Some(DockerUpdate::Network(network)),
                    None => None,
                };
                if let Some(update) = update {
                    updates.send(update).await?;
                }
            }
            _tick = ping.tick() => {
                docker.ping().await.context("docker is silent")?;
            }
        }
    }
}

async fn act(
    consequence: Consequence,
    updates: &mpsc::Sender<DockerUpdate>,
    questions: &mut Questions,
) -> anyhow::Result<()> {
    let Consequence { update, question } = consequence;
    if let Some(update) = update {
        updates.send(update).await?;
    }
    if let Some(question) = question {
        questions.ask(question);
    }
    Ok(())
}

/// Everything there is. One that cannot be understood is left out.
async fn list(docker: &Docker) -> anyhow::Result<(Vec<Container>, Vec<Network>)> {
    let all = ListContainersOptionsBuilder::default().all(true).build();
    let containers = docker
        .list_containers(Some(all))
        .await
        .context("list docker's containers")?;
    let networks = docker
        .list_networks(None)
        .await
        .context("list docker's networks")?;
    Ok((
        containers.into_iter().filter_map(convert::listed).collect(),
        networks.into_iter().filter_map(convert::listed_network).collect(),
    ))
}

/// Questions under way. They end with the session.
struct Questions {
    docker: Docker,
    at_once: Arc<Semaphore>,
    pending: JoinSet<Option<Answer>>,
}

impl Questions {
    fn new(docker: Docker) -> Self {
        Self {
            docker,
            at_once: Arc::new(Semaphore::new(QUESTIONS_AT_ONCE)),
            pending: JoinSet::new(),
        }
    }

    fn ask(&mut self, question: Question) {
        let (docker, at_once) = (self.docker.clone(), Arc::clone(&self.at_once));
        self.pending.spawn(async move {
            let _permit = at_once.acquire().await.ok()?;
            match answer(&docker, &question).await {
                Ok(answer) => answer,
                // It is gone already; what its events said stands.
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => None,
                Err(error) => {
                    tracing::warn!(?question, %error, "docker does not answer a question");
                    None
                }
            }
        });
    }
}

async fn answer(docker: &Docker, question: &Question) -> Result<Option<Answer>, Error> {
    Ok(match question {
        Question::Container(id, revision) => {
            let answer = docker.inspect_container(id.full(), None).await?;
            convert::inspected(answer).map(|container| Answer::Container(container, *revision))
        }
        Question::Network(id) => {
            convert::inspected_network(docker.inspect_network(id, None).await?).map(Answer::Network)
        }
    })
}

/// Up to a fifth longer, so that many daemons do not come back at one moment.
fn jittered(pause: Duration) -> Duration {
    let random = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    pause + pause.mul_f64(f64::from(random % 1000) / 5000.0)
}
