//! The thread that looks at the sockets of containers' network namespaces: at how many connections there are when dtm
//! first sees the namespace, and from time to time at what its listeners could not take.

use std::{
    collections::HashMap,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc as tokio_mpsc;

use crate::{
    bpf::SocketWalk,
    docker::ContainerId,
    net::{ListenCounts, Processes, enter, open_netns},
};

/// How often the counts of listeners are read.
const EVERY: Duration = Duration::from_secs(15);

/// How often a namespace is looked for in which there was nobody.
const AGAIN: Duration = Duration::from_millis(250);

/// After so long there is nobody to be found.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the thread is told.
pub(crate) enum Order {
    /// To look at a container's sockets.
    Begin(Place),
    /// That there is nothing to look at any more.
    End(ContainerId),
}

/// Where a container's sockets are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) id: ContainerId,
    /// The kernel side's number for it.
    pub(crate) number: u32,
    /// In which namespace; none for its group's in dtm's own.
    pub(crate) inode: Option<u32>,
}

/// What was seen of a container's sockets.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) place: Place,
    /// How many connections there are beyond those that were counted, where that was looked for.
    pub(crate) uncounted: Option<u64>,
    /// What the namespace's listeners could not take, since it was made.
    pub(crate) listen: Option<ListenCounts>,
}

struct Looker {
    walk: Option<SocketWalk>,
    processes: Processes,
    procfs: PathBuf,
    own: std::fs::File,
    /// Those in namespaces.
    known: HashMap<ContainerId, Place>,
    /// Those whose connections are to be counted, and since when.
    due: Vec<(Place, Instant)>,
    /// Those of which it was not known, and is looked for again.
    later: Vec<Place>,
    results: tokio_mpsc::Sender<Seen>,
}

/// Starts the thread. It ends when the channel of orders is closed.
pub(crate) fn spawn(
    procfs: PathBuf,
    walk: Option<SocketWalk>,
    orders: mpsc::Receiver<Order>,
    results: tokio_mpsc::Sender<Seen>,
) -> io::Result<thread::JoinHandle<()>> {
    let mut looker = Looker {
        walk,
        processes: Processes::new(procfs.clone())?,
        procfs,
        own: std::fs::File::open("/proc/thread-self/ns/net")?,
        known: HashMap::new(),
        due: Vec::new(),
        later: Vec::new(),
        results,
    };
    thread::Builder::new()
        .name("dtm-sockets".to_owned())
        .spawn(move || looker.run(&orders))
}

impl Looker {
    fn run(&mut self, orders: &mpsc::Receiver<Order>) {
        let mut next = Instant::now() + EVERY;
        loop {
            let now = Instant::now();
            let wait = if self.due.is_empty() {
                next - now.min(next)
            } else {
                AGAIN
            };
            match orders.recv_timeout(wait) {
                Ok(order) => {
                    self.take(order);
                    for order in orders.try_iter() {
                        self.take(order);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let is_time = Instant::now() >= next;
            if is_time {
                next = Instant::now() + EVERY;
                let again = self.later.drain(..).map(|place| (place, Instant::now()));
                self.due.extend(again);
            }
            if !self.look(is_time) {
                return;
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Begin(place) => {
                if place.inode.is_some() {
                    self.known.insert(place.id.clone(), place.clone());
                }
                self.due.push((place, Instant::now()));
            }
            Order::End(id) => {
                self.known.remove(&id);
                self.due.retain(|(due, _since)| due.id != id);
                self.later.retain(|later| later.id != id);
            }
        }
    }

    /// Looks at those that are due, or at all; whether anybody wants to know.
    fn look(&mut self, all: bool) -> bool {
        if self.due.is_empty() && (self.known.is_empty() || !all) {
            return true;
        }
        let owners = self.processes.scan(|_pid, _inode| {}).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the host's processes");
            Vec::new()
        });
        // The kernel's own number is 32 bits wide.
        let processes: HashMap<u32, i32> = owners
            .iter()
            .map(|owner| (owner.inode as u32, owner.pid))
            .collect();
        let process_of = |place: &Place| Some((place.inode?, *processes.get(&place.inode?)?));
        for (place, since) in std::mem::take(&mut self.due) {
            let process = process_of(&place);
            if place.inode.is_some() && process.is_none() {
                if since.elapsed() < PATIENCE {
                    self.due.push((place, since));
                }
                continue;
            }
            let uncounted = self.uncounted(place.number, process);
            if uncounted.is_none() && self.walk.is_some() {
                self.later.push(place.clone());
            }
            let seen = Seen {
                uncounted,
                listen: process.and_then(|process| self.listen(process)),
                place,
            };
            if self.results.blocking_send(seen).is_err() {
                return false;
            }
        }
        for place in self.known.values().filter(|_place| all) {
            let Some(listen) = process_of(place).and_then(|process| self.listen(process)) else {
                continue;
            };
            let seen = Seen {
                place: place.clone(),
                uncounted: None,
                listen: Some(listen),
            };
            if self.results.blocking_send(seen).is_err() {
                return false;
            }
        }
        true
    }

    /// What the listeners of a namespace could not take. The process may have another's number by now.
    fn listen(&self, (inode, process): (u32, i32)) -> Option<ListenCounts> {
        let counts = ListenCounts::read(&self.procfs, process).ok()?;
        let is_same = open_netns(&self.procfs, process)
            .and_then(|netns| netns.metadata())
            .is_ok_and(|netns| netns.ino() as u32 == inode);
        is_same.then_some(counts)
    }

    fn uncounted(&mut self, number: u32, place: Option<(u32, i32)>) -> Option<u64> {
        let walk = self.walk.as_mut()?;
        let count = |walk: &mut SocketWalk| {
            walk.uncounted(number).unwrap_or_else(|error| {
                let error = format_args!("{error:#}");
                tracing::warn!(error, "cannot look at a container's sockets");
                None
            })
        };
        let Some((inode, process)) = place else {
            return count(walk);
        };
        let netns = open_netns(&self.procfs, process).ok()?;
        if netns.metadata().ok()?.ino() as u32 != inode {
            return None;
        }
        enter(netns.as_fd()).ok()?;
        let uncounted = count(walk);
        if let Err(error) = enter(self.own.as_fd()) {
            // It is of no use where it is.
            tracing::error!(%error, "cannot come back from a container's network namespace");
            self.walk = None;
        }
        uncounted
    }
}
