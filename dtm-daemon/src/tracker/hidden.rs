//! Finds the namespaces that the engine hides overlay networks in, as they come and go.
//!
//! The engine mounts each under a name made from the network's id, in the directory where it has those of its containers
//! as well. A name is there before its namespace is, and the namespace must be left as soon as the name goes.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::inotify;
use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};

use super::{
    devices::Means,
    interfaces::OWN_NETNS,
    namespaces::{self, Opened},
};
use crate::{
    bpf::{Counts, Template},
    net::{hidden_network, mounted_netns},
};

/// How often the directory is read where nothing tells of changes, and while it is not there.
const LIST_EVERY: Duration = Duration::from_secs(10);

/// How long a name may be there before its namespace is, and how often is looked meanwhile.
const MOUNT_WITHIN: Duration = Duration::from_secs(2);
const MOUNT_STEP: Duration = Duration::from_millis(1);

/// What comes and goes.
pub(super) enum HiddenEvent {
    Opened(Box<Opened>),
    /// The one with this number.
    Closed(u32),
    /// All that were there at the start have been told.
    Listed,
}

/// A namespace that is watched.
struct Known {
    number: u32,
    inode: u64,
}

struct Watcher {
    directory: PathBuf,
    means: Means,
    events: mpsc::Sender<HiddenEvent>,
    known: BTreeMap<String, Known>,
    /// What an earlier process called those it knew, by their inodes.
    taken: HashMap<u64, u32>,
    next: Next,
}

/// The number of the next namespace, and its programs: the verifier takes longer for them than the engine for its first
/// packet.
struct Next {
    number: u32,
    programs: JoinHandle<anyhow::Result<(OwnedFd, OwnedFd)>>,
}

impl Next {
    fn new(number: u32, template: &Arc<Template>) -> Self {
        let template = Arc::clone(template);
        let load = move || template.classifiers(Counts::Namespace(number));
        Self {
            number,
            programs: tokio::task::spawn_blocking(load),
        }
    }
}

/// Tells `events` of them for as long as somebody listens. `taken` are the numbers of those that an earlier process knew,
/// by their inodes.
pub(super) fn spawn(
    directory: PathBuf,
    means: Means,
    taken: HashMap<u64, u32>,
    events: mpsc::Sender<HiddenEvent>,
) {
    let last = taken.values().copied().max().unwrap_or(OWN_NETNS);
    let watcher = Watcher {
        directory,
        next: Next::new(last + 1, &means.template),
        taken,
        means,
        events,
        known: BTreeMap::new(),
    };
    tokio::spawn(async move {
        // Only a tracker that is gone ends it.
        drop(watcher.run().await);
    });
}

/// Nobody listens.
struct Unheard;

impl Watcher {
    async fn run(mut self) -> Result<(), Unheard> {
        let mut changes = None;
        self.look(&mut changes).await?;
        self.tell(HiddenEvent::Listed).await?;
        loop {
            match &changes {
                Some(changes) => drop(tokio::time::timeout(LIST_EVERY, changes.next()).await),
                None => tokio::time::sleep(LIST_EVERY).await,
            }
            self.look(&mut changes).await?;
        }
    }

    /// Looks at what is there, and sees to it that what changes from now on is told.
    async fn look(&mut self, changes: &mut Option<Changes>) -> Result<(), Unheard> {
        if changes.is_none() {
            *changes = self.told(Changes::new());
        }
        // The directory may have been made since, or made anew: a restarted engine may do that.
        if let Some(changes) = changes {
            self.told(changes.follow(&self.directory));
        }
        self.compare().await
    }

    async fn tell(&self, event: HiddenEvent) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_closed| Unheard)
    }

    /// What came of trying to be told of changes; where it failed they are found all the same, later.
    fn told<T>(&self, result: io::Result<T>) -> Option<T> {
        let directory = self.directory.display();
        result
            .inspect_err(|error| {
                tracing::debug!(%directory, %error, "cannot be told of hidden networks, looking from time to time");
            })
            .ok()
    }

    /// Compares what is known with what is there.
    async fn compare(&mut self) -> Result<(), Unheard> {
        let names = self.names();
        let gone: Vec<String> = self
            .known
            .iter()
            .filter(|(name, known)| {
                let inode = mounted_netns(&self.directory.join(name)).map(|(_netns, inode)| inode);
                inode.as_ref().ok() != Some(&known.inode)
            })
            .map(|(name, _known)| name.clone())
            .collect();
        for name in gone {
            if let Some(known) = self.known.remove(&name) {
                self.tell(HiddenEvent::Closed(known.number)).await?;
            }
        }
        for name in names {
            if !self.known.contains_key(&name) {
                self.open(name).await?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| hidden_network(name).is_some())
            .collect()
    }

    async fn open(&mut self, name: String) -> Result<(), Unheard> {
        let path = self.directory.join(&name);
        let waited = tokio::time::timeout(MOUNT_WITHIN, async {
            loop {
                match mounted_netns(&path) {
                    Ok(found) => return Some(found),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                    Err(_not_mounted) => tokio::time::sleep(MOUNT_STEP).await,
                }
            }
        });
        let Ok(Some((netns, inode))) = waited.await else {
            return Ok(());
        };
        let Next { number, programs } = if let Some(number) = self.taken.remove(&inode) {
            Next::new(number, &self.means.template)
        } else {
            let next = Next::new(self.next.number + 1, &self.means.template);
            std::mem::replace(&mut self.next, next)
        };
        let Ok(programs) = programs.await else {
            return Ok(());
        };
        let means = self.means.clone();
        let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<Opened> {
            namespaces::open(number, Some(netns), programs?, means)
        });
        match opened.await {
            Ok(Ok(mut opened)) => {
                opened.watched.network = hidden_network(&name).map(Arc::from);
                opened.watched.inode = Some(inode);
                self.known.insert(name, Known { number, inode });
                self.tell(HiddenEvent::Opened(Box::new(opened))).await
            }
            Ok(Err(error)) => {
                let error = format_args!("{error:#}");
                tracing::warn!(name, error, "cannot watch the namespace of an overlay network");
                // Not again before it is made anew.
                self.known.insert(name, Known { number, inode });
                Ok(())
            }
            Err(_panicked) => Ok(()),
        }
    }
}

/// Tells of names that come and go in a directory, or in the nearest one above it while it is not there.
///
/// One for all: closing it waits until nobody in the kernel reads it, some ten milliseconds, in which a thread that others
/// wait for would not hear of a birth.
struct Changes {
    events: AsyncFd<OwnedFd>,
    /// The kernel's number for the watch of that directory.
    watch: Option<i32>,
    is_of_parent: bool,
}

impl Changes {
    fn new() -> io::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        Ok(Self {
            events: register(events)?,
            watch: None,
            is_of_parent: false,
        })
    }

    /// Watches `directory` as it is now, and nothing else.
    fn follow(&mut self, directory: &Path) -> io::Result<()> {
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::ONLYDIR;
        let mut watched = Err(io::ErrorKind::NotFound.into());
        for (above, directory) in directory.ancestors().enumerate() {
            match inotify::add_watch(&self.events, directory, flags) {
                Err(rustix::io::Errno::NOENT) => {}
                result => {
                    watched = result.map(|watch| (watch, above > 0)).map_err(io::Error::from);
                    break;
                }
            }
        }
        let (watch, is_of_parent) = watched?;
        // That of the same directory has the same number.
        if let Some(former) = self.watch.replace(watch).filter(|former| *former != watch) {
            // It went with its directory, if that is gone.
            inotify::remove_watch(&self.events, former).ok();
        }
        self.is_of_parent = is_of_parent;
        Ok(())
    }

    /// Waits until a name that matters has come or gone: those of containers' namespaces do too, often.
    async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.events.as_fd(), &mut buffer);
            let mut matters = false;
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| name.to_string_lossy());
                        matters |=
                            self.is_of_parent || name.is_none_or(|name| hidden_network(&name).is_some());
                    }
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if matters {
                return Ok(());
            }
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the promise that the descriptor stays open is the caller's"
)]
fn register(changes: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and nothing closes it before it is dropped.
    Ok(unsafe { AsyncFd::register(changes) }?)
}
