//! What the kernel's interfaces mean: which to attach to, and what becomes of those that go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{drops::OWNER_NONE, index::InterfaceKey};

use super::{
    Tracker,
    attaching::{AttachJob, Attached, Generation},
    groups::GroupJob,
    interfaces::{AttachmentState, DEVICES, GROUPS, Interface, OWN_NETNS, Role},
    nameless::Orphan,
    networks::Part,
    resolving::{ResolveJob, ResolveOrder},
};
use crate::{
    bpf::{AttachError, Attachment},
    net::{Link, LinkKind, MovedTo, get},
};

/// How long after a question about a pair's other end the next one is asked: longer than the first one is thought about.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// How long after a refusal an interface's next change is a reason to try again: a container can make its interface
/// change a thousand times a second.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Tracker {
    /// Takes in an interface of a watched namespace as it is now. `bulk`: many more are to come.
    pub(super) fn link_changed(&mut self, netns: u32, mut link: Link, bulk: bool) {
        let ifindex = link.ifindex;
        let key = InterfaceKey { netns, ifindex };
        if netns != OWN_NETNS {
            self.see_from_elsewhere(netns, &mut link);
        } else if link.kind == LinkKind::Bridge {
            let network = self
                .networks
                .of_bridge(&link.name)
                .map(|network| Arc::clone(&network.id));
            self.bridges.insert(ifindex, link.clone());
            if let Some(network) = network {
                self.hand_over(key, &network);
                self.attach(key, link, Role::Bridge { network }, bulk);
            }
            return;
        } else if link.is_own_device() {
            self.device_changed(link);
            return;
        }
        let bridge = self.bridge_of(netns, &link);
        if let Some(interface) = self.interfaces.get_mut(&key) {
            // A port leaves its bridge before it goes: the bridge it was on is what names its network.
            interface.bridge = bridge.or(interface.bridge.take());
            interface.link = link;
            interface.seen_from = netns;
            if matches!(interface.attachment, AttachmentState::Failed { at } if at.elapsed() >= RETRY_AFTER) {
                interface.attachment = AttachmentState::Attaching;
                let generation = interface.generation;
                self.order(netns, AttachJob::Attach { generation, bulk });
            }
        } else if link.is_host_end() && self.foreign.get(&key) != link.master.as_ref() {
            self.foreign.remove(&key);
            self.attach(key, link, Role::unknown(), bulk);
        }
        if let Some(interface) = self.interfaces.get(&key)
            && let Link {
                peer: Some(peer),
                peer_nsid: None,
                ..
            } = interface.link
        {
            self.peers_here.insert(peer, key);
        }
        self.identify(key);
    }

    /// Takes in that an interface is gone from a watched namespace, and where to if it lives on.
    pub(super) fn link_removed(&mut self, netns: u32, ifindex: u32, moved_to: Option<MovedTo>) {
        let key = InterfaceKey { netns, ifindex };
        self.foreign.remove(&key);
        self.refused.remove(&key);
        if let Some(interface) = self.interfaces.remove(&key) {
            // An index of another namespace says nothing about this one's.
            if let (Some(peer), None) = (interface.link.peer, interface.link.peer_nsid) {
                self.peers_here.remove(&peer);
            }
            self.retire(interface);
        }
        if netns != OWN_NETNS {
            return;
        }
        self.bridges.remove(&ifindex);
        self.device_removed(ifindex, moved_to);
        let host_end = self.peers_here.remove(&ifindex);
        // The other end of a pair has left for the container's namespace. Its farewell says which that is: the host
        // end could as well, but would have to be asked, and whoever asks waits for RTNL.
        let Some(MovedTo { nsid, ifindex: now }) = moved_to else {
            return;
        };
        let is_left_behind = |interface: &&mut Interface| {
            interface.link.peer == Some(ifindex) && interface.link.peer_nsid.is_none()
        };
        let host_end = host_end.and_then(|host_end| self.interfaces.get_mut(&host_end));
        if let Some(host_end) = host_end.filter(is_left_behind) {
            host_end.link.peer = Some(now);
            host_end.link.peer_nsid = Some(nsid);
            host_end.seen_from = OWN_NETNS;
            let host_end = host_end.generation.key;
            self.identify(host_end);
        }
    }

    /// Attaches to interfaces that had to wait for a slot, as far as there are slots now.
    pub(super) fn retry_refused(&mut self, now: Instant) {
        let free = self.slots.free(now);
        if free == 0 || self.refused.is_empty() {
            return;
        }
        for key in self.refused.iter().copied().take(free).collect::<Vec<_>>() {
            self.refused.remove(&key);
            self.look_again(key);
        }
        if self.refused.is_empty() {
            tracing::info!("every interface has a slot again");
        }
    }

    /// Name of the bridge in dtm's own namespace that an interface is a port of at this moment.
    fn bridge_of(&self, netns: u32, link: &Link) -> Option<Arc<str>> {
        if netns != OWN_NETNS {
            return None;
        }
        let bridge = self.bridges.get(&link.master?)?;
        Some(Arc::clone(&bridge.name))
    }

    /// Gives an interface a slot and orders its attachment.
    fn attach(&mut self, key: InterfaceKey, link: Link, role: Role, bulk: bool) {
        if self.interfaces.contains_key(&key) {
            return;
        }
        let now = Instant::now();
        let Some(slot) = self.slots.take(now) else {
            if self.refused.is_empty() {
                let interface = &*link.name;
                tracing::warn!(
                    interface,
                    "every slot is in use, this interface and further ones are not counted: raise --max-interfaces"
                );
            }
            // Once for each: it is asked about again until there is a slot.
            if self.refused.insert(key) {
                self.count_attach_error("no_slot");
            }
            return;
        };
        self.refused.remove(&key);
        let generation = self.next_generation(key, slot);
        let bridge = self.bridge_of(key.netns, &link);
        let interface = Interface {
            bridge,
            ..Interface::new(link, generation, role, now)
        };
        let owner = match interface.role {
            Role::Pending { .. } | Role::Container(_) => interface.pending_owner(),
            Role::Infrastructure { .. } | Role::Bridge { .. } => OWNER_NONE,
        };
        let (netns, ifindex) = (key.netns, key.ifindex);
        tracing::debug!(
            interface = &*interface.link.name,
            netns,
            ifindex,
            slot,
            "attaching"
        );
        self.interfaces.insert(key, interface);
        // Before the kernel side is told: whoever takes over takes out of its maps what the journal has.
        self.record_birth(key);
        self.begin_site(key);
        if let Err(error) = self.kernel.enter(key, slot) {
            self.unindexed = true;
            self.count_map_error("index", &error);
            self.interfaces.remove(&key);
            self.end_site(generation);
            self.slots.give_back(slot, now);
            return;
        }
        let result = self.kernel.owners.set_slot(slot, owner);
        self.check_map("owners", result);
        self.await_attachment(key);
        self.order(key.netns, AttachJob::Attach { generation, bulk });
    }

    /// A new life of what is known by `key`.
    pub(super) fn next_generation(&mut self, key: InterfaceKey, slot: u32) -> Generation {
        self.last_generation += 1;
        Generation {
            key,
            number: self.last_generation,
            slot,
        }
    }

    /// Takes in how an attachment went.
    pub(super) fn on_attached(&mut self, attached: Attached) {
        let Attached { generation, result } = attached;
        self.starting.remove(&generation.key);
        let interface = self.interfaces.get_mut(&generation.key);
        match (
            interface.filter(|interface| interface.generation == generation),
            result,
        ) {
            (Some(interface), Ok(attachment)) => {
                let (mode, waited) = (attachment.mode().as_str(), interface.since.elapsed());
                tracing::debug!(interface = &*interface.link.name, mode, ?waited, "attached");
                interface.attachment = AttachmentState::Attached(attachment);
                interface.program = self.kernel.program;
                interface.renewed = Some(Instant::now());
                interface.refused = None;
                if std::mem::take(&mut interface.mending) {
                    self.counts.reattached += 1;
                    tracing::warn!(
                        interface = &*interface.link.name,
                        mode,
                        "somebody had taken a program off, it is attached again"
                    );
                }
                if generation.key.netns == GROUPS {
                    self.group_attached(generation.key);
                }
                self.suspect(generation.key);
                self.naming_due = true;
            }
            (Some(_), Err(error)) if generation.key.netns == GROUPS => {
                self.count_attach_error(error.reason());
                self.group_refused(generation.key, &error);
            }
            (Some(interface), Err(error)) => {
                interface.attachment = AttachmentState::Failed { at: Instant::now() };
                let is_news = interface.refused.replace(error.reason()) != Some(error.reason());
                let name = Arc::clone(&interface.link.name);
                self.count_attach_error(error.reason());
                if is_news && !matches!(error, AttachError::Gone) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        interface = &*name,
                        error,
                        "cannot attach, its traffic is not counted"
                    );
                }
            }
            // It went while it was being attached to.
            (None, Ok(attachment)) => self.order(generation.key.netns, AttachJob::Detach(attachment)),
            (None, Err(_gone_with_it)) => {}
        }
        self.note_readiness();
    }

    /// Ends the life of an interface that is gone: its last totals go where they belong.
    pub(super) fn retire(&mut self, mut interface: Interface) {
        let now = Instant::now();
        if interface.is_restored && !*self.ready.borrow() {
            self.takeover.gone += 1;
            self.takeover.attached = self.takeover.attached.saturating_sub(1);
        }
        self.settle_given_up(&mut interface);
        let counted = interface.counted(&self.kernel.counters, self.former.as_ref());
        let traffic = interface.moved(&counted);
        self.leave_index(interface.generation.key);
        let Interface {
            link,
            bridge,
            generation,
            attachment,
            role,
            ..
        } = interface;
        let slot = generation.slot;
        self.end_site(generation);
        // Filters went with the interface; links did too, but their descriptors are still open.
        if let AttachmentState::Attached(attachment @ (Attachment::Tcx { .. } | Attachment::Cgroup { .. })) =
            attachment
        {
            self.order(generation.key.netns, AttachJob::Detach(attachment));
        }
        match role {
            Role::Bridge { network } => {
                self.networks.add_past(&network, &traffic, Part::Bridge);
                self.release(slot, now);
            }
            Role::Infrastructure { kind, network } => {
                self.networks
                    .add_past(&network, &traffic, Part::Infrastructure(kind));
                self.release(slot, now);
            }
            Role::Container(named) => {
                self.end_series(&named, generation.key, slot, &traffic, now);
            }
            Role::Pending { identity, .. } => {
                self.unrecorded.rest = true;
                self.orphans.push(Orphan {
                    link,
                    bridge,
                    generation,
                    slot,
                    identity,
                    traffic,
                    since: now,
                });
                self.naming_due = true;
            }
        }
    }

    /// Makes the kernel side forget an interface that it finds by its index.
    pub(super) fn leave_index(&mut self, key: InterfaceKey) {
        if !matches!(key.netns, DEVICES | GROUPS) {
            let result = self.kernel.leave(key);
            self.check_map("index", result);
        }
    }

    /// Gives a slot back; its drops belong to nobody from now on.
    pub(super) fn release(&mut self, slot: u32, now: Instant) {
        let result = self.kernel.owners.set_slot(slot, OWNER_NONE);
        self.check_map("owners", result);
        match self.spares.give_back(slot, now) {
            Some(kind) => self.trim_spares(kind, now),
            None => self.slots.give_back(slot, now),
        }
    }

    /// Asks whose an interface is, once the kernel says in which namespace its other end is.
    fn identify(&mut self, key: InterfaceKey) {
        let Some(interface) = self.interfaces.get_mut(&key) else {
            return;
        };
        let (Some(peer), Some(nsid)) = (interface.link.peer, interface.link.peer_nsid) else {
            return;
        };
        if let Role::Pending {
            identity: None,
            asked,
            ..
        } = &mut interface.role
            && asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN)
        {
            let again = asked.replace(Instant::now()).is_some();
            let job = ResolveJob {
                generation: interface.generation,
                seen_from: interface.seen_from,
                nsid,
                peer,
                other_end: key.ifindex,
                again,
            };
            self.order_resolve(ResolveOrder::Identify(job));
        }
    }

    /// Asks again about interfaces that nothing was found for: the other end may be somewhere else by now.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let is_due = |interface: &&Interface| match interface.role {
            Role::Pending {
                identity: None,
                asked: Some(asked),
                ..
            } => now.duration_since(asked) >= ASK_AGAIN,
            _ => false,
        };
        let due: Vec<InterfaceKey> = self
            .interfaces
            .values()
            .filter(is_due)
            .map(|interface| interface.generation.key)
            .collect();
        for key in due {
            self.look_again(key);
        }
    }

    /// Takes in an interface as the kernel describes it now.
    fn look_again(&mut self, key: InterfaceKey) {
        let InterfaceKey { netns, ifindex } = key;
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return;
        };
        match get(&mut namespace.requests, ifindex) {
            Ok(link) => self.link_changed(netns, link, false),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, netns, ifindex, "cannot ask about a host end");
            }
        }
    }

    /// Has the thread that attaches in this namespace do something.
    pub(super) fn order(&self, netns: u32, job: AttachJob) {
        if let Some(namespace) = self.namespaces.get(&netns) {
            namespace.order(job);
        } else if let AttachJob::Detach(attachment) = job {
            // A link needs nobody's namespace, but a thread that may wait.
            self.groups.order(GroupJob::Detach(attachment));
        }
    }

    pub(super) fn count_attach_error(&mut self, reason: &'static str) {
        *self.counts.attach_errors.entry(reason).or_default() += 1;
    }
}
