//! Containers on the host's network: they have no interface of their own, but a control group.
//!
//! The programs are at the group, and count what its sockets and those of the groups below it send and receive. A group
//! is made before the container's first process: it is attached to at once where Docker has told of the container and not
//! yet of its network, and left again where that turns out to be another. What such a group has counted until then is
//! nobody's: its container's interface has it.

mod attaching;
mod owners;

use std::{
    collections::HashMap,
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use dtm_common::index::InterfaceKey;
use tokio::sync::mpsc as tokio_mpsc;

pub(super) use self::attaching::GroupJob;
use super::{
    Tracker,
    attaching::Report,
    interfaces::{AttachmentState, GROUPS, Interface, Named, Role},
    naming::Identity,
    placing::{self, HOST_NETWORK, NO_GROUP, NO_HIERARCHY},
    spares::Kind,
};
use crate::{
    bpf::{AttachError, CgroupEvent, CgroupWatch, Kernel, Pins, Template},
    docker::{Container, ContainerId},
    net::{Hierarchy, Link, container_of_group},
};

/// How long a group that Docker says nothing of may be attached to: it may be another engine's.
const FOREIGN_AFTER: Duration = Duration::from_secs(10);

/// The group of a container.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// dtm has seen it being made: there may be first packets to miss.
    is_birth: bool,
    /// What counts there, where something does.
    key: Option<InterfaceKey>,
}

/// All groups of containers.
pub(super) struct Groups {
    pub(super) hierarchy: Option<Arc<Hierarchy>>,
    by_container: HashMap<ContainerId, Group>,
    /// The kernel's numbers for the groups that something counts at.
    ids: HashMap<InterfaceKey, u64>,
    /// Why nothing counts for a container's group, where attaching was refused.
    refused: HashMap<ContainerId, &'static str>,
    jobs: mpsc::Sender<GroupJob>,
    thread: thread::JoinHandle<()>,
    last: u32,
}

impl Groups {
    /// Goes on with what an earlier process has attached to, by container: the path of its group, and what counts there.
    pub(super) fn restore(&mut self, groups: impl IntoIterator<Item = (ContainerId, PathBuf, InterfaceKey)>) {
        for (container, path, key) in groups {
            self.last = self.last.max(key.ifindex);
            let group = Group {
                path,
                is_birth: false,
                key: Some(key),
            };
            self.by_container.insert(container, group);
        }
    }

    /// Starts the thread that attaches to groups.
    pub(super) fn start(
        procfs: &Path,
        template: Arc<Template>,
        report: tokio_mpsc::Sender<Report>,
        pins: Option<Arc<Pins>>,
    ) -> io::Result<Self> {
        let hierarchy = match Hierarchy::open(procfs) {
            Ok(hierarchy) => Some(Arc::new(hierarchy)),
            Err(error) => {
                tracing::warn!(%error, "no cgroup v2 hierarchy: containers on the host's network are not counted");
                None
            }
        };
        let (jobs, queue) = mpsc::channel();
        let of_thread = hierarchy.clone();
        let thread = thread::Builder::new()
            .name("dtm-groups".to_owned())
            .spawn(move || {
                attaching::work(&template, of_thread.as_deref(), &queue, &report, pins.as_ref());
            })?;
        Ok(Self {
            hierarchy,
            by_container: HashMap::new(),
            ids: HashMap::new(),
            refused: HashMap::new(),
            jobs,
            thread,
            last: 0,
        })
    }

    /// The root of the hierarchy, where there is one that shows all of the host's groups.
    pub(super) fn root(&self) -> Option<BorrowedFd<'_>> {
        self.hierarchy.as_ref().map(|hierarchy| hierarchy.root())
    }

    /// Whether there is anything to attach to.
    pub(super) fn are_there(&self) -> bool {
        self.hierarchy.is_some()
    }

    /// Has the thread do something.
    pub(super) fn order(&self, job: GroupJob) {
        // The thread lives as long as this sender does.
        drop(self.jobs.send(job));
    }

    /// Waits until the thread has done everything.
    pub(super) fn finish(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the thread that attaches to groups panicked");
        }
    }
}

/// Starts to hear of groups that are made and removed, where that can be.
pub(super) fn watch(kernel: &mut Kernel) -> Option<CgroupWatch> {
    match kernel.watch_cgroups() {
        Ok(cgroups) => Some(cgroups),
        Err(error) => {
            let error = format_args!("{error:#}");
            tracing::warn!(
                error,
                "nothing tells of control groups: containers on the host's network are counted from a second after \
                 their start"
            );
            None
        }
    }
}

/// Waits for the next events, for ever where nothing tells of any. Cancel safe.
pub(super) async fn next(cgroups: &mut Option<CgroupWatch>) -> io::Result<Vec<CgroupEvent>> {
    match cgroups {
        Some(cgroups) => cgroups.next().await,
        None => std::future::pending().await,
    }
}

impl Tracker {
    /// Takes in what happened to a group.
    pub(super) fn on_cgroup(&mut self, event: CgroupEvent) {
        match event {
            CgroupEvent::Made(path) => self.group_made(path, true),
            CgroupEvent::Removed(path) => self.group_removed(&path),
            CgroupEvent::Lost => {
                *self.counts.events_lost.entry("cgroups").or_default() += 1;
                tracing::warn!("events of control groups were lost, looking at all of them");
                self.find_groups();
            }
        }
    }

    /// Compares the groups that are known with those that there are.
    pub(super) fn find_groups(&mut self) {
        let Some(hierarchy) = self.groups.hierarchy.clone() else {
            return;
        };
        let there = hierarchy.containers();
        let known = self.groups.by_container.values();
        let gone: Vec<PathBuf> = known
            .map(|group| &group.path)
            .filter(|path| !there.contains(path))
            .cloned()
            .collect();
        for path in gone {
            self.group_removed(&path);
        }
        for path in there {
            self.group_made(path, false);
        }
    }

    /// `is_birth`: nothing has run in it yet, so that there is something to miss.
    fn group_made(&mut self, path: PathBuf, is_birth: bool) {
        let id = container_of_group(&path).and_then(|id| ContainerId::parse(&id));
        // A hierarchy of v1 can tell of the same group; this one may not have it yet.
        let (Some(id), Some(hierarchy)) = (id, &self.groups.hierarchy) else {
            return;
        };
        let known = self.groups.by_container.get(&id);
        if known.is_some_and(|known| known.path == path) || hierarchy.group(&path).is_err() {
            return;
        }
        if let Some(former) = known.map(|known| known.path.clone()) {
            self.group_removed(&former);
        }
        let group = Group {
            path,
            is_birth,
            key: None,
        };
        self.groups.by_container.insert(id.clone(), group);
        self.consider_group(&id);
    }

    fn group_removed(&mut self, path: &Path) {
        let id = container_of_group(path).and_then(|id| ContainerId::parse(&id));
        let Some(id) = id.filter(|id| {
            let known = self.groups.by_container.get(id);
            known.is_some_and(|known| known.path == path)
        }) else {
            return;
        };
        self.groups.refused.remove(&id);
        let group = self.groups.by_container.remove(&id);
        if let Some(interface) = group
            .and_then(|group| group.key)
            .and_then(|key| self.interfaces.remove(&key))
        {
            self.retire(interface);
        }
    }

    /// Takes in what Docker says of a container: its group may have to be attached to, or left.
    pub(super) fn consider_group(&mut self, id: &ContainerId) {
        let Some(group) = self.groups.by_container.get(id) else {
            return;
        };
        // Docker tells of a container before it makes its group, and only then of its network. While it does not answer,
        // and while Podman's word may be on its way, everybody's group may be one of its containers'.
        let tells_first = self.docker.up == Some(true) && !self.docker.is_podman;
        let may_be_on_host = group.is_birth && (!tells_first || self.containers.get(id).is_some());
        match (self.is_on_host(id), group.key) {
            // What was refused is tried again from time to time.
            (_, None) if self.groups.refused.contains_key(id) => {}
            (Some(true), None) => self.attach_group(id),
            (None, None) if may_be_on_host => self.attach_group(id),
            (Some(false), Some(key)) => self.leave_group(key),
            _ => {}
        }
    }

    /// As [`consider_group`](Self::consider_group), of all.
    pub(super) fn consider_groups(&mut self) {
        for id in self.groups.by_container.keys().cloned().collect::<Vec<_>>() {
            self.consider_group(&id);
        }
    }

    /// Whether a container is on the host's network, by itself or because the one is whose network it shares; none
    /// while Docker has not said.
    pub(super) fn is_on_host(&self, id: &ContainerId) -> Option<bool> {
        placing::is_on_host(&self.containers.get(id)?.container, |id| {
            self.containers.get(id).map(|tracked| &tracked.container)
        })
    }

    fn attach_group(&mut self, id: &ContainerId) {
        let now = Instant::now();
        let Some(path) = self.groups.by_container.get(id).map(|group| group.path.clone()) else {
            return;
        };
        let Some((slot, programs)) = self.take_spare(Kind::Group, now) else {
            if self.groups.refused.insert(id.clone(), "no_slot").is_none() {
                self.count_attach_error("no_slot");
            }
            return;
        };
        self.groups.last += 1;
        let key = InterfaceKey {
            netns: GROUPS,
            ifindex: self.groups.last,
        };
        let generation = self.next_generation(key, slot);
        self.kernel.counters.clear(slot);
        let identity = Identity {
            netns_inode: None,
            process: None,
            containers: vec![id.clone()],
            infrastructure: None,
            peer: None,
        };
        let name = Arc::from(path.to_string_lossy());
        let interface = Interface::new(Link::of_group(name), generation, Role::known(identity), now);
        tracing::debug!(container = %id, slot, "attaching to its group");
        let owner = interface.pending_owner();
        self.interfaces.insert(key, interface);
        if let Some(group) = self.groups.by_container.get_mut(id) {
            group.key = Some(key);
        }
        self.record_birth(key);
        self.begin_site(key);
        self.begin_sender(generation, &path);
        if let Some(group) = self.group_id(&path) {
            self.groups.ids.insert(key, group);
            self.own_group(key, owner);
        }
        self.await_attachment(key);
        self.groups.order(GroupJob::Attach {
            generation,
            path,
            programs,
        });
        self.naming_due = true;
    }

    /// Leaves a group alone whose container is on another network: what it counted is counted there.
    pub(super) fn leave_group(&mut self, key: InterfaceKey) {
        let Some(interface) = self.interfaces.remove(&key) else {
            return;
        };
        for group in self.groups.by_container.values_mut() {
            if group.key == Some(key) {
                group.key = None;
            }
        }
        let slot = interface.slot();
        self.end_site(interface.generation);
        if let AttachmentState::Attached(attachment) = interface.attachment {
            self.groups.order(GroupJob::Detach(attachment));
        }
        self.starting.remove(&key);
        self.end_slot(slot, None, Instant::now());
    }

    /// Leaves groups alone whose containers Docker says nothing of.
    pub(super) fn leave_foreign_groups(&mut self, now: Instant) {
        if self.docker.up != Some(true) {
            return;
        }
        let containers = &self.containers;
        let is_foreign = |interface: &&Interface| {
            let Role::Pending {
                identity: Some(identity),
                ..
            } = &interface.role
            else {
                return false;
            };
            interface.generation.key.netns == GROUPS
                && now.duration_since(interface.since) >= FOREIGN_AFTER
                && identity.containers.iter().all(|id| containers.get(id).is_none())
        };
        let foreign: Vec<InterfaceKey> = self
            .interfaces
            .values()
            .filter(is_foreign)
            .map(|interface| interface.generation.key)
            .collect();
        for key in foreign {
            self.leave_group(key);
        }
    }

    /// Takes in that a group is attached to.
    pub(super) fn group_attached(&mut self, key: InterfaceKey) {
        let Groups {
            by_container,
            refused,
            ..
        } = &mut self.groups;
        refused.retain(|id, _reason| by_container.get(id).is_none_or(|group| group.key != Some(key)));
    }

    /// Takes in that a group could not be attached to.
    pub(super) fn group_refused(&mut self, key: InterfaceKey, error: &AttachError) {
        let group = self
            .groups
            .by_container
            .iter_mut()
            .find(|(_id, group)| group.key == Some(key));
        let Some((id, group)) = group else {
            return;
        };
        group.key = None;
        if !matches!(error, AttachError::Gone) {
            let reason = error.uncovered();
            let is_news = self.groups.refused.insert(id.clone(), reason) != Some(reason);
            if is_news {
                let group = group.path.display();
                let error = error as &dyn std::error::Error;
                tracing::warn!(%group, error, "cannot attach to a container's group, its traffic is not counted");
            }
        }
        if let Some(interface) = self.interfaces.remove(&key) {
            self.end_site(interface.generation);
            self.end_slot(interface.slot(), None, Instant::now());
        }
    }

    /// Tries again where a group could not be attached to, and puts back what somebody took off.
    pub(super) fn look_at_groups(&mut self) {
        for id in self.groups.refused.keys().cloned().collect::<Vec<_>>() {
            let is_idle = |group: &Group| group.key.is_none();
            if self.groups.by_container.get(&id).is_some_and(is_idle) && self.is_on_host(&id) == Some(true) {
                self.attach_group(&id);
            }
        }
        let is_off = |interface: &&Interface| matches!(&interface.attachment, AttachmentState::Attached(attachment) if !attachment.is_at_its_group());
        let mut mended = Vec::new();
        let all = self.interfaces.values();
        let off = all
            .filter(|interface| interface.generation.key.netns == GROUPS)
            .filter(is_off);
        for key in off.map(|interface| interface.generation.key).collect::<Vec<_>>() {
            let Some(interface) = self.interfaces.get_mut(&key) else {
                continue;
            };
            // One that was removed is none any more; its event is on its way.
            let path = PathBuf::from(&*interface.link.name);
            if self
                .groups
                .hierarchy
                .as_ref()
                .is_none_or(|groups| groups.group(&path).is_err())
            {
                continue;
            }
            interface.mending = true;
            let rest = std::mem::replace(&mut interface.attachment, AttachmentState::Attaching);
            mended.push((interface.generation, path, rest));
        }
        for (generation, path, rest) in mended {
            if let AttachmentState::Attached(attachment) = rest {
                self.groups.order(GroupJob::Detach(attachment));
            }
            self.groups.order(GroupJob::Attach {
                generation,
                path,
                programs: None,
            });
        }
    }

    /// Whose a group is, where that is known and it is on the host's network.
    pub(super) fn host_named(&self, container: &Container) -> Option<Named> {
        (self.is_on_host(&container.id) == Some(true)).then(|| {
            let network = self
                .networks
                .known()
                .find(|network| &*network.driver == HOST_NETWORK);
            let network = network.map_or_else(
                || (Arc::from(HOST_NETWORK), Arc::from(HOST_NETWORK)),
                |network| (Arc::clone(&network.id), Arc::from(HOST_NETWORK)),
            );
            Named {
                container: container.id.clone(),
                network,
                interface: Arc::from(""),
                netns_inode: None,
                addresses: Vec::new(),
            }
        })
    }

    /// Why nothing counts for a container on the host's network, where that is so.
    pub(super) fn group_uncovered(&self, id: &ContainerId) -> Option<&'static str> {
        if !self.groups.are_there() {
            return Some(NO_HIERARCHY);
        }
        let is_there = self.groups.by_container.contains_key(id);
        let refused = self.groups.refused.get(id).copied();
        refused.or_else(|| (!is_there).then_some(NO_GROUP))
    }
}
