//! Watching the engine for as long as the daemon lives.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow};
use bollard::{Docker, errors::Error, models::EventMessage, query_parameters::EventsOptions};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    DockerUpdate,
    about::about,
    ask::Questions,
    connect::{connect, reason},
    list::{is_nonsense, list},
    podman,
    registry::Registry,
};
use crate::config::DockerHost;

/// The first pause before another try; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// After a connection that held this long the next pause is the first again.
const HELD: Duration = Duration::from_secs(10);

/// How often the engine is asked whether it is still there, and how long it may think about it: one that hangs keeps
/// its connections.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// How often Podman is asked which networks there are: it tells of none that it makes or removes. The ones that a container
/// is seen on are asked about at once.
const LIST_EVERY: Duration = Duration::from_secs(30);

/// The events that change what is known, Docker's and Podman's. A host with health checks has many others each second.
const ACTIONS: [&str; 13] = [
    "create",
    "start",
    "restart",
    "rename",
    "pause",
    "unpause",
    "update",
    "die",
    "died",
    "destroy",
    "remove",
    "connect",
    "disconnect",
];

/// What outlives a connection.
struct Watch {
    host: DockerHost,
    updates: mpsc::Sender<DockerUpdate>,
    unknown_networks: Arc<Notify>,
    registry: Registry,
    /// Events before this were seen or do not matter, in nanoseconds since the epoch.
    since: i64,
    /// When the engine last said what there is.
    listed: Option<Instant>,
}

/// Tells `updates` what the engine says, until `cancel` or until nobody listens. Reconnects for ever. Asks the engine for
/// networks it did not tell of whenever `unknown_networks` is notified.
pub async fn watch(
    host: DockerHost,
    updates: mpsc::Sender<DockerUpdate>,
    unknown_networks: Arc<Notify>,
    cancel: CancellationToken,
) {
    let mut watch = Watch {
        host,
        updates,
        unknown_networks,
        registry: Registry::default(),
        since: now(),
        listed: None,
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = watch.run() => {}
    }
}

impl Watch {
    /// Ends when nobody listens.
    async fn run(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.listed = None;
            let Err(error) = self.session().await;
            let reason = reason(&error);
            tracing::debug!(reason, "lost docker");
            if self.updates.send(DockerUpdate::Down(reason)).await.is_err() {
                return;
            }
            if self.listed.is_some_and(|listed| listed.elapsed() >= HELD) {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// One connection's life, and why it ended.
    async fn session(&mut self) -> anyhow::Result<std::convert::Infallible> {
        let engine = connect(&self.host).await?;
        let (docker, is_podman) = (engine.docker.clone(), engine.is_podman);
        let mut events = pin!(subscribe(&docker, self.since));
        let mut listing = pin!(list(&engine));
        // The subscription is only sent once the stream is polled, so both are polled together. What happens before
        // the engine has taken it is replayed by `since`.
        let mut early = Vec::new();
        let (mut containers, networks) = loop {
            tokio::select! {
                event = events.next() => early.extend(self.event(event, is_podman)?),
                listed = &mut listing => break listed?,
            }
        };
        self.registry.listed(&mut containers, &networks);
        self.listed = Some(Instant::now());
        self.tell(Some(DockerUpdate::Listed {
            containers,
            networks,
            version: Arc::clone(&engine.version),
            is_podman,
        }))
        .await?;
        for event in early {
            let update = self.registry.on_event(event);
            self.tell(update).await?;
        }
        let mut questions = Questions::new(engine.clone());
        let mut silence = pin!(silence(&docker));
        // Not before the list: names do not wait for it.
        let mut about = pin!(about(&engine));
        let mut is_asked = true;
        let mut untold = tokio::time::interval_at(Instant::now() + LIST_EVERY, LIST_EVERY);
        loop {
            questions.ask(&mut self.registry);
            tokio::select! {
                event = events.next() => {
                    let event = self.event(event, is_podman)?;
                    let update = event.and_then(|event| self.registry.on_event(event));
                    self.tell(update).await?;
                }
                updates = questions.answer(&mut self.registry) => {
                    for update in updates? {
                        self.tell(Some(update)).await?;
                    }
                }
                about = &mut about, if is_asked => {
                    is_asked = false;
                    match about {
                        Ok(about) => self.tell(Some(DockerUpdate::About(about))).await?,
                        Err(error) => {
                            let error = format_args!("{error:#}");
                            tracing::debug!(error, "docker does not say how it runs");
                        }
                    }
                }
                () = self.unknown_networks.notified() => self.registry.ask_for_networks(),
                _now = untold.tick(), if is_podman => self.registry.ask_for_networks(),
                error = &mut silence => return Err(error),
            }
        }
    }

    /// Takes an event off the stream; none where it means nothing.
    fn event(
        &mut self,
        event: Option<Result<EventMessage, Error>>,
        is_podman: bool,
    ) -> anyhow::Result<Option<EventMessage>> {
        match event.context("docker ended the stream of events")? {
            Ok(event) => {
                if let Some(time) = event.time_nano {
                    self.since = self.since.max(time.saturating_add(1));
                }
                Ok(if is_podman {
                    podman::event(event)
                } else {
                    Some(event)
                })
            }
            Err(error) => {
                if is_nonsense(&error) {
                    // It would come again.
                    self.since = now();
                }
                Err(error).context("read docker's events")
            }
        }
    }

    async fn tell(&self, update: Option<DockerUpdate>) -> anyhow::Result<()> {
        match update {
            Some(update) => self.updates.send(update).await.context("nobody listens"),
            None => Ok(()),
        }
    }
}

/// The events from `since` on, in nanoseconds since the epoch.
fn subscribe(docker: &Docker, since: i64) -> impl Stream<Item = Result<EventMessage, Error>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let filters = HashMap::from([
        ("type".to_owned(), words(&["container", "network"])),
        ("event".to_owned(), words(&ACTIONS)),
    ]);
    docker.events(Some(EventsOptions {
        since: Some(format!("{}.{:09}", since / 1_000_000_000, since % 1_000_000_000)),
        until: None,
        filters: Some(filters),
    }))
}

/// Waits until the engine does not answer any more.
async fn silence(docker: &Docker) -> anyhow::Error {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match tokio::time::timeout(PONG_WITHIN, docker.ping()).await {
            // A proxy that refuses the question is there.
            Ok(Ok(_) | Err(Error::DockerResponseServerError { .. })) => {}
            Ok(Err(error)) => return anyhow!(error).context("ask docker whether it is there"),
            Err(_elapsed) => return anyhow!("docker is silent"),
        }
    }
}

fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// Up to a quarter longer, so that the daemons of many hosts do not come back to one proxy together.
fn jittered(pause: Duration) -> Duration {
    // Keyed anew each time it is made.
    let random = RandomState::new().build_hasher().finish();
    pause + pause.mul_f64((random % 1_000) as f64 / 4_000.0)
}
