//! The thread that finds out whose namespace the other end of a veth pair is in, while somebody is still there.
//!
//! A container can be gone 50 ms after its interface came to it, and RTNL is held for as long by whoever makes and
//! removes links beside it. So this thread asks nothing that waits for RTNL: it reads `/proc` and compares ids of
//! namespaces. What only RTNL's holder may say is left to [`asking`].

use std::{
    collections::HashMap,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc as tokio_mpsc;

use super::{
    Infrastructure,
    asking::{self, Found},
    attaching::Generation,
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
    /// Id of the namespace the other end is in.
    pub(crate) nsid: i32,
    /// Its index there.
    pub(crate) peer: u32,
    /// Whether this was asked before, in vain.
    pub(crate) again: bool,
}

/// Whose it is.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) generation: Generation,
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
    pub(super) containers: Vec<ContainerId>,
    pub(super) infrastructure: Option<Infrastructure>,
}

struct Resolver {
    processes: Processes,
    procfs: PathBuf,
    requests: Requests,
    indices: Indices,
    sandboxes: Sandboxes,
    /// Ids of namespaces, by inode, and the process each was found by: asking costs a system call each.
    known: HashMap<u64, (i32, Option<i32>)>,
}

/// Starts the thread, and the one it hands over to. They end when the job channel is closed.
pub(crate) fn spawn(
    procfs: PathBuf,
    docker_netns: PathBuf,
    jobs: mpsc::Receiver<ResolveJob>,
    results: tokio_mpsc::Sender<Resolved>,
) -> Result<thread::JoinHandle<()>, ResolverError> {
    let mut resolver = Resolver {
        processes: Processes::new(procfs.clone())?,
        procfs,
        requests: Requests::open()?,
        indices: Indices::open()?,
        sandboxes: Sandboxes::new(docker_netns),
        known: HashMap::new(),
    };
    let found = asking::spawn(results)?;
    let thread = thread::Builder::new()
        .name("dtm-resolve".to_owned())
        .spawn(move || run(&mut resolver, &jobs, &found))?;
    Ok(thread)
}

/// Why the threads could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolverError {
    #[error("start the threads that identify interfaces")]
    Start(#[from] io::Error),
    #[error("open a netlink socket to identify interfaces")]
    Netlink(#[from] NetlinkError),
}

fn run(resolver: &mut Resolver, jobs: &mpsc::Receiver<ResolveJob>, found: &mpsc::Sender<Found>) {
    let mut pending: Vec<Pending> = Vec::new();
    loop {
        let next = pending.iter().map(|pending| pending.due).min();
        let job = match next {
            None => jobs
                .recv()
                .map_err(|mpsc::RecvError| mpsc::RecvTimeoutError::Disconnected),
            Some(due) => jobs.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match job {
            Ok(job) => pending.push(Pending::new(job)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        pending.extend(jobs.try_iter().map(Pending::new));
        for found_now in resolver.look(&mut pending) {
            if found.send(found_now).is_err() {
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
        let namespaces = self.namespaces().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the host's processes");
            HashMap::new()
        });
        let mut found = Vec::new();
        for mut waiting in due {
            let Pending { job, since, .. } = waiting;
            let ifindex = job.generation.ifindex;
            // As long as one end is there the other is, and its namespace has its id; later, another may have it.
            if !self.indices.is_used(ifindex) {
                tracing::debug!(ifindex, "gone before its other end was found");
                continue;
            }
            let patience = if job.again { PATIENCE_AGAIN } else { PATIENCE };
            let age = now.duration_since(since);
            if let Some(namespace) = namespaces.get(&job.nsid).cloned() {
                found.push(Found { job, namespace });
            } else if age < patience {
                waiting.due = now + waiting.wait;
                let longest = if age < YOUNG { QUICK_WAIT } else { LAST_WAIT };
                waiting.wait = (waiting.wait * 2).min(longest);
                pending.push(waiting);
            } else {
                tracing::debug!(ifindex, "nobody's process is in the namespace of the other end");
                self.sandboxes.say_if_unreadable();
            }
        }
        found
    }

    /// The namespaces that containers' processes are in, by id.
    fn namespaces(&mut self) -> io::Result<HashMap<i32, Namespace>> {
        let Self {
            processes,
            procfs,
            requests,
            known,
            ..
        } = self;
        let mut ids: HashMap<u64, (i32, Option<i32>)> = HashMap::new();
        let owners = processes.scan(|pid, inode| {
            let id = ids.entry(inode).or_insert((pid, None));
            if id.1.is_none() {
                // An id may be handed out after the first look, so only a number is remembered.
                let before = known.get(&inode).filter(|before| before.0 == pid);
                *id = (
                    pid,
                    before
                        .and_then(|before| before.1)
                        .or_else(|| nsid(requests, procfs, pid, inode)),
                );
            }
        })?;
        let mut namespaces: HashMap<i32, Namespace> = HashMap::new();
        for owner in owners {
            let Some((_pid, Some(nsid))) = ids.get(&owner.inode) else {
                continue;
            };
            let containers = owner.containers.iter().filter_map(|id| ContainerId::parse(id));
            let namespace = Namespace {
                // The kernel's own number is 32 bits wide.
                inode: owner.inode as u32,
                containers: containers.collect(),
                infrastructure: owner.is_build.then_some(Infrastructure::Build),
            };
            namespaces.insert(*nsid, namespace);
        }
        *known = ids;
        if let Some((nsid, inode)) = self.ingress() {
            namespaces.entry(nsid).or_insert_with(|| Namespace {
                inode: inode as u32,
                containers: Vec::new(),
                infrastructure: Some(Infrastructure::Ingress),
            });
        }
        Ok(namespaces)
    }

    /// Id and inode of the namespace of Swarm's ingress sandbox, which has no process.
    fn ingress(&mut self) -> Option<(i32, u64)> {
        let netns = self.sandboxes.ingress()?;
        let inode = netns.metadata().ok()?.ino();
        let nsid = namespace_id(&mut self.requests, netns.as_fd()).ok().flatten()?;
        Some((nsid, inode))
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
