//! The thread that finds out whose namespace the other end of a veth pair is in, while it is still there.

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc as tokio_mpsc;

use super::{attaching::Generation, naming::Identity};
use crate::{
    docker::ContainerId,
    net::{NetlinkError, Peer, Processes, Requests, namespace_id, open_netns, peer},
};

/// The first wait between two looks; it doubles up to [`QUICK_WAIT`] while the pair is young, later to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(2);
const QUICK_WAIT: Duration = Duration::from_millis(16);
const LAST_WAIT: Duration = Duration::from_secs(1);

/// How long a pair is young: an engine needs some 200 ms to set one up, more when it starts many.
const YOUNG: Duration = Duration::from_secs(2);

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
    /// Inode of the namespace and the containers with processes in it.
    namespace: Option<(u32, Vec<ContainerId>)>,
    /// The other end as of the last look.
    peer: Option<Peer>,
    since: Instant,
    due: Instant,
    wait: Duration,
}

struct Resolver {
    processes: Processes,
    procfs: PathBuf,
    requests: Requests,
    /// Ids of the namespaces of known processes, by (inode, pid): asking costs a system call each.
    nsids: HashMap<(u64, i32), Option<i32>>,
}

/// Starts the thread. It ends when the job channel is closed.
pub(crate) fn spawn(
    procfs: PathBuf,
    jobs: mpsc::Receiver<ResolveJob>,
    results: tokio_mpsc::Sender<Resolved>,
) -> Result<thread::JoinHandle<()>, ResolverError> {
    let mut resolver = Resolver {
        processes: Processes::new(procfs.clone())?,
        procfs,
        requests: Requests::open()?,
        nsids: HashMap::new(),
    };
    let thread = thread::Builder::new()
        .name("dtm-resolve".to_owned())
        .spawn(move || run(&mut resolver, &jobs, &results))?;
    Ok(thread)
}

/// Why the thread could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolverError {
    #[error("start the thread that identifies interfaces")]
    Start(#[from] io::Error),
    #[error("open a netlink socket to identify interfaces")]
    Netlink(#[from] NetlinkError),
}

fn run(resolver: &mut Resolver, jobs: &mpsc::Receiver<ResolveJob>, results: &tokio_mpsc::Sender<Resolved>) {
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
            Ok(job) => pending.push(resolver.first_look(job)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        while let Ok(job) = jobs.try_recv() {
            pending.push(resolver.first_look(job));
        }
        for resolved in resolver.look(&mut pending) {
            if results.blocking_send(resolved).is_err() {
                return;
            }
        }
    }
}

impl Resolver {
    /// Asks about the other end at once: it may be gone when its namespace is found.
    fn first_look(&mut self, job: ResolveJob) -> Pending {
        let now = Instant::now();
        let peer = self.peer(&job);
        Pending {
            job,
            namespace: None,
            peer,
            since: now,
            due: now,
            wait: FIRST_WAIT,
        }
    }

    fn peer(&mut self, job: &ResolveJob) -> Option<Peer> {
        match peer(&mut self.requests, job.nsid, job.peer) {
            Ok(peer) => Some(peer),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(
                    error,
                    ifindex = job.generation.ifindex,
                    "cannot ask about the other end"
                );
                None
            }
        }
    }

    /// One pass over the processes for all that are due; returns those that are settled and keeps the others.
    fn look(&mut self, pending: &mut Vec<Pending>) -> Vec<Resolved> {
        let now = Instant::now();
        let (due, later) = std::mem::take(pending)
            .into_iter()
            .partition(|pending| pending.due <= now);
        *pending = later;
        let due: Vec<Pending> = due;
        let mut namespaces = HashMap::new();
        if due.iter().any(|pending| pending.namespace.is_none()) {
            namespaces = self.namespaces().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot list the host's processes");
                HashMap::new()
            });
        }
        let mut resolved = Vec::new();
        for mut waiting in due {
            if waiting.namespace.is_none() {
                waiting.namespace = namespaces.get(&waiting.job.nsid).cloned();
            }
            let peer = self.peer(&waiting.job);
            // An engine switches the other end on last, when its name and addresses are set.
            let settled = peer.as_ref().is_none_or(|peer| peer.up);
            waiting.peer = peer.or(waiting.peer);
            let age = now.duration_since(waiting.since);
            let generation = waiting.job.generation;
            let patience = if waiting.job.again {
                PATIENCE_AGAIN
            } else {
                PATIENCE
            };
            match waiting.namespace.take() {
                Some((netns_inode, containers)) if settled || age >= YOUNG => {
                    let identity = Identity {
                        netns_inode,
                        containers,
                        peer: waiting.peer,
                    };
                    resolved.push(Resolved { generation, identity });
                }
                namespace if age < patience => {
                    waiting.namespace = namespace;
                    waiting.due = now + waiting.wait;
                    let longest = if age < YOUNG { QUICK_WAIT } else { LAST_WAIT };
                    waiting.wait = (waiting.wait * 2).min(longest);
                    pending.push(waiting);
                }
                _ => {
                    let ifindex = generation.ifindex;
                    tracing::debug!(
                        ifindex,
                        "no container's process is in the namespace of the other end"
                    );
                }
            }
        }
        resolved
    }

    /// The namespaces that containers' processes are in: id → (inode, containers).
    fn namespaces(&mut self) -> io::Result<HashMap<i32, (u32, Vec<ContainerId>)>> {
        let owners = self.processes.scan()?;
        let mut nsids = HashMap::with_capacity(owners.len());
        let mut namespaces: HashMap<i32, (u32, Vec<ContainerId>)> = HashMap::new();
        for owner in owners {
            let key = (owner.inode, owner.pid);
            let nsid = match self.nsids.get(&key) {
                // An id may be handed out after the first look, so only a number is remembered.
                Some(nsid @ Some(_)) => *nsid,
                _ => self.nsid(owner.pid, owner.inode),
            };
            nsids.insert(key, nsid);
            let Some(nsid) = nsid else { continue };
            let containers = owner.containers.iter().filter_map(|id| ContainerId::parse(id));
            // The kernel's own number is 32 bits wide.
            namespaces
                .entry(nsid)
                .or_insert((owner.inode as u32, Vec::new()))
                .1
                .extend(containers);
        }
        self.nsids = nsids;
        Ok(namespaces)
    }

    fn nsid(&mut self, pid: i32, inode: u64) -> Option<i32> {
        use std::os::unix::fs::MetadataExt as _;
        // A process that ended meanwhile has no namespace; a reused pid has another.
        let netns = open_netns(&self.procfs, pid).ok()?;
        if netns.metadata().ok()?.ino() != inode {
            return None;
        }
        namespace_id(&mut self.requests, netns.as_fd()).ok().flatten()
    }
}
