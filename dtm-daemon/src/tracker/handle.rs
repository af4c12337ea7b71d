//! How the rest of the daemon asks the tracker.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Places, Snapshot};

/// What the tracker can be asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read the maps and answer with everything a scrape shows.
    Snapshot(oneshot::Sender<Arc<Snapshot>>),
    /// Answer with everything that is attached to; no map is read for it.
    Places(oneshot::Sender<Arc<Places>>),
}

/// The tracker has ended; the daemon is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct TrackerStopped;

/// A cheap handle to the tracker. Every clone talks to the same owner.
#[derive(Clone, Debug)]
pub struct TrackerHandle {
    commands: mpsc::Sender<Command>,
    ready: watch::Receiver<bool>,
}

impl TrackerHandle {
    pub(crate) fn new(commands: mpsc::Sender<Command>, ready: watch::Receiver<bool>) -> Self {
        Self { commands, ready }
    }

    /// The state as of now: the maps are read for this call, or for one that waited with it.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, TrackerStopped> {
        self.ask(Command::Snapshot).await
    }

    /// Where dtm counts, or tries to, as of now.
    pub async fn places(&self) -> Result<Arc<Places>, TrackerStopped> {
        self.ask(Command::Places).await
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, TrackerStopped> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(question(reply))
            .await
            .map_err(|_closed| TrackerStopped)?;
        answer.await.map_err(|_closed| TrackerStopped)
    }

    /// Whether programs are loaded, everything that existed at start is attached, and Docker answered or is
    /// known to be absent. Once true it stays true.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }
}

#[cfg(test)]
impl TrackerHandle {
    /// A handle whose owner answers with `snapshot` for as long as the handle lives.
    pub(crate) fn answering(snapshot: Snapshot, ready: bool) -> Self {
        Self::answering_with(snapshot, Places::default(), ready)
    }

    /// The same, with `places` as well.
    pub(crate) fn answering_with(snapshot: Snapshot, places: Places, ready: bool) -> Self {
        Self::answering_each(vec![snapshot], places, ready)
    }

    /// The same, with one of `snapshots` after the other, and with the last one from then on.
    pub(crate) fn answering_each(snapshots: Vec<Snapshot>, places: Places, ready: bool) -> Self {
        let mut snapshots: std::collections::VecDeque<_> = snapshots.into_iter().map(Arc::new).collect();
        let places = Arc::new(places);
        let (commands, mut asked) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                // Who asked may have left.
                match command {
                    Command::Snapshot(reply) => {
                        drop(reply.send(Arc::clone(&snapshots[0])));
                        if snapshots.len() > 1 {
                            snapshots.pop_front();
                        }
                    }
                    Command::Places(reply) => drop(reply.send(Arc::clone(&places))),
                }
            }
        });
        Self::new(commands, watch::channel(ready).1)
    }

    /// A handle whose owner has ended.
    pub(crate) fn stopped() -> Self {
        Self::new(mpsc::channel(1).0, watch::channel(false).1)
    }
}
