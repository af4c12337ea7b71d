//! The thread that finds out whose namespace the other end of a veth pair is in, while somebody is still there.
//!
//! A container can be gone 50 ms after its interface came to it, and RTNL is held for as long by whoever makes and
//! removes links beside it. So this thread asks nothing that waits for RTNL: it reads `/proc` and compares ids of
//! namespaces. What only RTNL's holder may say is left to [`asking`].

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use dtm_common::index::InterfaceKey;
use tokio::sync::mpsc as tokio_mpsc;

use super::{
    Infrastructure,
    asking::{self, Found, Question},
    attaching::Generation,
    interfaces::{DEVICES, OWN_NETNS},
    naming::Identity,
};
use crate::{
    docker::ContainerId,
    net::{Indices, NetlinkError, Processes, Requests, Sandboxes, namespace_id, open_netns},
};

/// The first wait between two looks; it doubles up to [`QUICK_WAIT`] while the pair is young, later to [`LAST_WAIT`].
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(2);
pub(super) const QUICK_WAIT: Duration = Duration::from_millis(16);
const LAST_WAIT: Duration = Duration::from_secs(1);

/// How long a pair is young: an engine needs some 200 ms to set one up, more when it starts many.
pub(super) const YOUNG: Duration = Duration::from_secs(2);

/// After this long the interface is given up; the tracker asks again from time to time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same for one that was asked about before: its pair is not being set up any more.
const PATIENCE_AGAIN: Duration = Duration::from_secs(3);

/// An interface whose other end is to be identified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolveJob {
    pub(crate) generation: Generation,
    /// The watched namespace whose id for the other end's namespace this is.
    pub(crate) seen_from: u32,
    /// Id of the namespace the other end is in.
    pub(crate) nsid: i32,
    /// Its index there.
    pub(crate) peer: u32,
    /// What it is the other end of, or on top of: the host end's index, or the parent's of a container's own device.
    pub(crate) other_end: u32,
    /// Whether this was asked before, in vain.
    pub(crate) again: bool,
}

/// Whose it is.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) generation: Generation,
    /// The other end's index in its namespace.
    pub(crate) ifindex: u32,
    pub(crate) identity: Identity,
}

struct Pending {
    job: ResolveJob,
    since: Instant,
    due: Instant,
    wait: Duration,
}

/// A namespace and the containers with processes in it.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    pub(super) inode: u32,
    /// One of its processes.
    pub(super) process: Option<i32>,
    pub(super) containers: Vec<ContainerId>,
    pub(super) infrastructure: Option<Infrastructure>,
}

/// What it takes to ask as seen from a watched namespace: ids of other namespaces and indices are its own.
pub(crate) struct View {
    /// For the thread that asks nothing that waits for RTNL.
    pub(crate) requests: Requests,
    /// For the thread that asks about other ends.
    pub(crate) questions: Requests,
    /// Of the interfaces there.
    pub(crate) indices: Indices,
}

impl View {
    /// Of the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            requests: Requests::open()?,
            questions: Requests::open()?,
            indices: Indices::open()?,
        })
    }
}

/// What the thread is told.
pub(crate) enum ResolveOrder {
    /// Find out whose this is.
    Identify(ResolveJob),
    /// The namespace with this number is watched from now on.
    Open(u32, View),
    /// It is not watched any more.
    Close(u32),
}

struct Resolver {
    processes: Processes,
    procfs: PathBuf,
    views: HashMap<u32, (Requests, Indices)>,
    sandboxes: Sandboxes,
    /// Ids of namespaces, by who sees them and by their inode, and the process each was found by: asking costs a system
    /// call each.
    known: HashMap<(u32, u64), (i32, Option<i32>)>,
}

/// Starts the thread, and the one it hands over to. They end when the channel of orders is closed.
pub(crate) fn spawn(
    procfs: PathBuf,
    docker_netns: PathBuf,
    orders: mpsc::Receiver<ResolveOrder>,
    results: tokio_mpsc::Sender<Resolved>,
) -> io::Result<thread::JoinHandle<()>> {
    let mut resolver = Resolver {
        processes: Processes::new(procfs.clone())?,
        procfs,
        views: HashMap::new(),
        sandboxes: Sandboxes::new(docker_netns),
        known: HashMap::new(),
    };
    let questions = asking::spawn(results)?;
    thread::Builder::new()
        .name("dtm-resolve".to_owned())
        .spawn(move || run(&mut resolver, &orders, &questions))
}

fn run(resolver: &mut Resolver, orders: &mpsc::Receiver<ResolveOrder>, questions: &mpsc::Sender<Question>) {
    let mut pending: Vec<Pending> = Vec::new();
    loop {
        let next = pending.iter().map(|pending| pending.due).min();
        let order = match next {
            None => orders
                .recv()
                .map_err(|mpsc::RecvError| mpsc::RecvTimeoutError::Disconnected),
            Some(due) => orders.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let first = match order {
            Ok(order) => Some(order),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let mut asked = Vec::new();
        for order in first.into_iter().chain(orders.try_iter()) {
            match order {
                ResolveOrder::Identify(job) => pending.push(Pending::new(job)),
                ResolveOrder::Open(netns, view) => asked.push(resolver.open(netns, view)),
                ResolveOrder::Close(netns) => asked.push(resolver.close(netns)),
            }
        }
        asked.extend(resolver.look(&mut pending).into_iter().map(Question::Ask));
        for question in asked {
            if questions.send(question).is_err() {
                return;
            }
        }
    }
}

impl Pending {
    fn new(job: ResolveJob) -> Self {
        let now = Instant::now();
        Self {
            job,
            since: now,
            due: now,
            wait: FIRST_WAIT,
        }
    }
}

impl Resolver {
    fn open(&mut self, netns: u32, view: View) -> Question {
        let View {
            requests,
            questions,
            indices,
        } = view;
        self.views.insert(netns, (requests, indices));
        Question::Open(netns, questions)
    }

    /// A socket keeps its namespace, and what is in it, from going.
    fn close(&mut self, netns: u32) -> Question {
        self.views.remove(&netns);
        self.known.retain(|(seen_from, _inode), _id| *seen_from != netns);
        Question::Close(netns)
    }

    /// One pass over the processes for all that are due; returns those that are found and keeps the others.
    fn look(&mut self, pending: &mut Vec<Pending>) -> Vec<Found> {
        let now = Instant::now();
        let (due, later) = std::mem::take(pending)
            .into_iter()
            .partition::<Vec<_>, _>(|pending| pending.due <= now);
        *pending = later;
        if due.is_empty() {
            return Vec::new();
        }
        let mut seen_from = BTreeMap::new();
        for Pending { job, .. } in &due {
            // Load balancers are on overlay networks only: for others the directory, with a file for each container, need
            // not be read.
            *seen_from.entry(job.seen_from).or_default() |= job.generation.key.netns != OWN_NETNS;
        }
        let namespaces = self.namespaces(&seen_from).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the host's processes");
            HashMap::new()
        });
        let mut found = Vec::new();
        for mut waiting in due {
            let Pending { job, since, .. } = waiting;
            let InterfaceKey { netns, ifindex } = job.generation.key;
            // As long as one end is there the other is, and its namespace has its id; later, another may have it. A device
            // without a host end is asked about by its parent.
            let host_ends = self.views.get(&netns);
            let is_there = host_ends.is_some_and(|(_requests, indices)| indices.is_used(ifindex));
            if netns != DEVICES && !is_there {
                tracing::debug!(netns, ifindex, "gone before its other end was found");
                continue;
            }
            let patience = if job.again { PATIENCE_AGAIN } else { PATIENCE };
            let age = now.duration_since(since);
            if let Some(namespace) = namespaces.get(&(job.seen_from, job.nsid)).cloned() {
                found.push(Found { job, namespace });
            } else if age < patience {
                waiting.due = now + waiting.wait;
                let longest = if age < YOUNG { QUICK_WAIT } else { LAST_WAIT };
                waiting.wait = (waiting.wait * 2).min(longest);
                pending.push(waiting);
            } else {
                tracing::debug!(
                    netns,
                    ifindex,
                    "nobody's process is in the namespace of the other end"
                );
                self.sandboxes.say_if_unreadable();
            }
        }
        found
    }

    /// The namespaces that containers' processes are in, and Docker's own sandboxes: by who sees them, and their id there.
    /// `seen_from` says of each who sees them whether one may be a load balancer's.
    fn namespaces(&mut self, seen_from: &BTreeMap<u32, bool>) -> io::Result<HashMap<(u32, i32), Namespace>> {
        let Self {
            processes,
            procfs,
            views,
            known,
            ..
        } = self;
        let mut ids: HashMap<(u32, u64), (i32, Option<i32>)> = HashMap::new();
        let owners = processes.scan(|pid, inode| {
            for netns in seen_from.keys() {
                let id = ids.entry((*netns, inode)).or_insert((pid, None));
                if id.1.is_none() {
                    // An id may be handed out after the first look, so only a number is remembered.
                    let before = known.get(&(*netns, inode)).filter(|before| before.0 == pid);
                    let view = views.get_mut(netns);
                    let ask = |(requests, _): &mut (Requests, Indices)| nsid(requests, procfs, pid, inode);
                    *id = (pid, before.and_then(|before| before.1).or_else(|| ask(view?)));
                }
            }
        })?;
        let mut namespaces: HashMap<(u32, i32), Namespace> = HashMap::new();
        for owner in owners {
            let containers = owner.containers.iter().filter_map(|id| ContainerId::parse(id));
            let namespace = Namespace {
                // The kernel's own number is 32 bits wide.
                inode: owner.inode as u32,
                process: Some(owner.pid),
                containers: containers.collect(),
                infrastructure: owner.is_build.then_some(Infrastructure::Build),
            };
            for netns in seen_from.keys() {
                if let Some((_pid, Some(nsid))) = ids.get(&(*netns, owner.inode)) {
                    namespaces.insert((*netns, *nsid), namespace.clone());
                }
            }
        }
        // What was not asked about this time is still known.
        known.retain(|(netns, _inode), _id| !seen_from.contains_key(netns));
        known.extend(ids);
        for (netns, with_balancers) in seen_from {
            for (kind, nsid, inode) in self.sandboxes_seen_from(*netns, *with_balancers) {
                namespaces.entry((*netns, nsid)).or_insert_with(|| Namespace {
                    inode: inode as u32,
                    process: None,
                    containers: Vec::new(),
                    infrastructure: Some(kind),
                });
            }
        }
        Ok(namespaces)
    }

    /// Ids and inodes of the namespaces of Swarm's own sandboxes, which have no process.
    fn sandboxes_seen_from(&mut self, netns: u32, with_balancers: bool) -> Vec<(Infrastructure, i32, u64)> {
        let Some((requests, _indices)) = self.views.get_mut(&netns) else {
            return Vec::new();
        };
        let ingress = self
            .sandboxes
            .ingress()
            .map(|file| (Infrastructure::Ingress, file));
        let balancers = with_balancers.then(|| self.sandboxes.load_balancers());
        let balancers = balancers.into_iter().flatten();
        ingress
            .into_iter()
            .chain(balancers.map(|file| (Infrastructure::LoadBalancer, file)))
            .filter_map(|(kind, netns)| {
                let inode = netns.metadata().ok()?.ino();
                let nsid = namespace_id(requests, netns.as_fd()).ok().flatten()?;
                Some((kind, nsid, inode))
            })
            .collect()
    }
}

/// The id of the namespace that a process is in, if it still is the one with this inode: a process that ended has none,
/// and its id may be another's by now.
fn nsid(requests: &mut Requests, procfs: &Path, pid: i32, inode: u64) -> Option<i32> {
    let netns = open_netns(procfs, pid).ok()?;
    if netns.metadata().ok()?.ino() != inode {
        return None;
    }
    namespace_id(requests, netns.as_fd()).ok().flatten()
}
