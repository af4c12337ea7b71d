//! The thread that asks the kernel about the other end of a veth pair: its name, its addresses, whether it is set up.
//!
//! Each question waits for RTNL, which engines and others hold while they make and remove links.

use std::{
    collections::HashMap,
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc as tokio_mpsc;

use super::{
    naming::Identity,
    resolving::{FIRST_WAIT, Namespace, QUICK_WAIT, ResolveJob, Resolved, YOUNG},
};
use crate::net::{Peer, Requests, peer};

/// What the thread is told.
pub(super) enum Question {
    /// Ask about the other end of this.
    Ask(Found),
    /// Questions as seen from the watched namespace with this number go over this socket.
    Open(u32, Requests),
    /// That namespace is not watched any more.
    Close(u32),
}

/// An interface and the namespace its other end is in.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) job: ResolveJob,
    pub(super) namespace: Namespace,
}

struct Waiting {
    found: Found,
    /// The other end as of the last look.
    peer: Option<Peer>,
    since: Instant,
    due: Instant,
    wait: Duration,
}

/// Starts the thread. It ends when the channel it returns is closed.
pub(super) fn spawn(results: tokio_mpsc::Sender<Resolved>) -> io::Result<mpsc::Sender<Question>> {
    let (sender, questions) = mpsc::channel();
    thread::Builder::new()
        .name("dtm-ask".to_owned())
        .spawn(move || run(&questions, &results))?;
    Ok(sender)
}

fn run(questions: &mpsc::Receiver<Question>, results: &tokio_mpsc::Sender<Resolved>) {
    let mut requests: HashMap<u32, Requests> = HashMap::new();
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let next = waiting.iter().map(|waiting| waiting.due).min();
        let question = match next {
            None => questions
                .recv()
                .map_err(|mpsc::RecvError| mpsc::RecvTimeoutError::Disconnected),
            Some(due) => questions.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let first = match question {
            Ok(question) => Some(question),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        for question in first.into_iter().chain(questions.try_iter()) {
            match question {
                Question::Ask(found) => waiting.push(Waiting::new(found)),
                Question::Open(netns, socket) => {
                    requests.insert(netns, socket);
                }
                Question::Close(netns) => {
                    requests.remove(&netns);
                }
            }
        }
        // One at a time: an answer can take as long as the next one's container lives.
        let Some(first) = waiting
            .iter()
            .enumerate()
            .min_by_key(|(_index, waiting)| waiting.due)
            .map(|(index, _waiting)| index)
        else {
            continue;
        };
        if waiting[first].due > Instant::now() {
            continue;
        }
        let mut asked = waiting.swap_remove(first);
        let seen_from = asked.found.job.seen_from;
        // Without its namespace nothing can be asked any more, but whose it is, is known.
        if requests
            .get_mut(&seen_from)
            .is_none_or(|requests| asked.is_settled(requests))
        {
            if results.blocking_send(asked.resolved()).is_err() {
                return;
            }
        } else {
            waiting.push(asked);
        }
    }
}

impl Waiting {
    fn new(found: Found) -> Self {
        let now = Instant::now();
        Self {
            found,
            peer: None,
            since: now,
            due: now,
            wait: FIRST_WAIT,
        }
    }

    /// Asks about the other end; whether there is nothing more to wait for.
    fn is_settled(&mut self, requests: &mut Requests) -> bool {
        let ResolveJob {
            generation,
            nsid,
            peer: ifindex,
            other_end,
            seen_from: _,
            again: _,
        } = self.found.job;
        let now_there = peer(requests, other_end, nsid, ifindex).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(
                error,
                ifindex = generation.key.ifindex,
                "cannot ask about the other end"
            );
            None
        });
        // An engine switches the other end on last, when its name and addresses are set.
        let is_set_up = now_there.as_ref().is_none_or(|peer| peer.up);
        self.peer = now_there.or(self.peer.take());
        self.due = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(QUICK_WAIT);
        is_set_up || self.since.elapsed() >= YOUNG
    }

    fn resolved(self) -> Resolved {
        let Found { job, namespace } = self.found;
        Resolved {
            generation: job.generation,
            ifindex: job.peer,
            identity: Identity {
                netns_inode: Some(namespace.inode),
                process: namespace.process,
                containers: namespace.containers,
                infrastructure: namespace.infrastructure,
                peer: self.peer,
            },
        }
    }
}
