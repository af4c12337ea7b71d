//! The thread that asks the kernel about the other end of a veth pair: its name, its addresses, whether it is set up.
//!
//! Each question waits for RTNL, which engines and others hold while they make and remove links.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc as tokio_mpsc;

use super::{
    naming::Identity,
    resolving::{FIRST_WAIT, Namespace, QUICK_WAIT, ResolveJob, Resolved, ResolverError, YOUNG},
};
use crate::net::{Peer, Requests, peer};

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
pub(super) fn spawn(results: tokio_mpsc::Sender<Resolved>) -> Result<mpsc::Sender<Found>, ResolverError> {
    let mut requests = Requests::open()?;
    let (sender, found) = mpsc::channel();
    thread::Builder::new()
        .name("dtm-ask".to_owned())
        .spawn(move || run(&mut requests, &found, &results))?;
    Ok(sender)
}

fn run(requests: &mut Requests, found: &mpsc::Receiver<Found>, results: &tokio_mpsc::Sender<Resolved>) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let next = waiting.iter().map(|waiting| waiting.due).min();
        let job = match next {
            None => found
                .recv()
                .map_err(|mpsc::RecvError| mpsc::RecvTimeoutError::Disconnected),
            Some(due) => found.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match job {
            Ok(found) => waiting.push(Waiting::new(found)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        waiting.extend(found.try_iter().map(Waiting::new));
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
        if asked.is_settled(requests) {
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
            again: _,
        } = self.found.job;
        let now_there = peer(requests, generation.ifindex, nsid, ifindex).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(
                error,
                ifindex = generation.ifindex,
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
            identity: Identity {
                netns_inode: namespace.inode,
                containers: namespace.containers,
                infrastructure: namespace.infrastructure,
                peer: self.peer,
            },
        }
    }
}
