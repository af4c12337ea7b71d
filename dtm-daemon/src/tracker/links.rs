//! What the kernel's interfaces mean: which to attach to, and what becomes of those that go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::drops::OWNER_NONE;

use super::{
    Tracker, Traffic,
    attaching::{AttachJob, Attached, Generation},
    interfaces::{AttachmentState, Interface, Role},
    nameless::Orphan,
    networks::Part,
    resolving::ResolveJob,
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
    /// Takes in an interface as it is now. `bulk`: many more are to come.
    pub(super) fn link_changed(&mut self, link: Link, bulk: bool) {
        let ifindex = link.ifindex;
        if link.kind == LinkKind::Bridge {
            let network = self
                .networks
                .of_bridge(&link.name)
                .map(|network| Arc::clone(&network.id));
            self.bridges.insert(ifindex, link.clone());
            if let Some(network) = network {
                self.hand_over(ifindex, &network);
                self.attach(link, Role::Bridge { network }, bulk);
            }
            return;
        }
        let bridge = self.bridge_of(&link);
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            // A port leaves its bridge before it goes: the bridge it was on is what names its network.
            interface.bridge = bridge.or(interface.bridge.take());
            interface.link = link;
            if matches!(interface.attachment, AttachmentState::Failed { at } if at.elapsed() >= RETRY_AFTER) {
                interface.attachment = AttachmentState::Attaching;
                let generation = interface.generation;
                self.order(AttachJob::Attach { generation, bulk });
            }
        } else if link.is_host_end() && self.foreign.get(&ifindex) != link.master.as_ref() {
            self.foreign.remove(&ifindex);
            self.attach(
                link,
                Role::Pending {
                    identity: None,
                    asked: None,
                    given_up: false,
                },
                bulk,
            );
        }
        if let Some(interface) = self.interfaces.get(&ifindex)
            && let Link {
                peer: Some(peer),
                peer_nsid: None,
                ..
            } = interface.link
        {
            self.both_here.insert(peer, ifindex);
        }
        self.identify(ifindex);
    }

    /// Takes in that an interface is gone from this namespace, and where to if it lives on.
    pub(super) fn link_removed(&mut self, ifindex: u32, moved_to: Option<MovedTo>) {
        self.bridges.remove(&ifindex);
        self.foreign.remove(&ifindex);
        self.refused.remove(&ifindex);
        if let Some(interface) = self.interfaces.remove(&ifindex) {
            // An index of another namespace says nothing about this one's.
            if let (Some(peer), None) = (interface.link.peer, interface.link.peer_nsid) {
                self.both_here.remove(&peer);
            }
            self.retire(interface);
        }
        let host_end = self.both_here.remove(&ifindex);
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
            let host_end = host_end.link.ifindex;
            self.identify(host_end);
        }
    }

    /// Attaches to interfaces that had to wait for a slot, as far as there are slots now.
    pub(super) fn retry_refused(&mut self, now: Instant) {
        let free = self.slots.free(now);
        if free == 0 || self.refused.is_empty() {
            return;
        }
        for ifindex in self.refused.iter().copied().take(free).collect::<Vec<_>>() {
            self.refused.remove(&ifindex);
            self.look_again(ifindex);
        }
        if self.refused.is_empty() {
            tracing::info!("every interface has a slot again");
        }
    }

    /// Name of the bridge an interface is a port of at this moment.
    fn bridge_of(&self, link: &Link) -> Option<Arc<str>> {
        let bridge = self.bridges.get(&link.master?)?;
        Some(Arc::clone(&bridge.name))
    }

    /// Gives an interface a slot and orders its attachment.
    fn attach(&mut self, link: Link, role: Role, bulk: bool) {
        let ifindex = link.ifindex;
        if self.interfaces.contains_key(&ifindex) {
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
            if self.refused.insert(ifindex) {
                self.count_attach_error("no_slot");
            }
            return;
        };
        self.refused.remove(&ifindex);
        self.last_generation += 1;
        let generation = Generation {
            ifindex,
            number: self.last_generation,
        };
        let bridge = self.bridge_of(&link);
        let attachment = AttachmentState::Attaching;
        let interface = Interface {
            link,
            bridge,
            generation,
            slot,
            attachment,
            preceded: None,
            mending: false,
            refused: None,
            role,
            since: now,
            base: Traffic::default(),
        };
        let owner = match interface.role {
            Role::Pending { .. } | Role::Container(_) => interface.pending_owner(),
            Role::Infrastructure { .. } | Role::Bridge { .. } => OWNER_NONE,
        };
        if let Err(error) = self.kernel.enter(interface.key(), slot) {
            self.unindexed = true;
            self.count_map_error("index", &error);
            self.slots.give_back(slot, now);
            return;
        }
        let result = self.kernel.set_owner(slot, owner);
        self.check_map("owners", result);
        tracing::debug!(interface = &*interface.link.name, ifindex, slot, "attaching");
        self.interfaces.insert(ifindex, interface);
        self.order(AttachJob::Attach { generation, bulk });
    }

    /// Takes in how an attachment went.
    pub(super) fn on_attached(&mut self, attached: Attached) {
        let Attached { generation, result } = attached;
        if let Some(starting) = &mut self.starting {
            starting.remove(&generation.ifindex);
        }
        let interface = self.interfaces.get_mut(&generation.ifindex);
        match (
            interface.filter(|interface| interface.generation == generation),
            result,
        ) {
            (Some(interface), Ok(attachment)) => {
                let (mode, waited) = (attachment.mode().as_str(), interface.since.elapsed());
                tracing::debug!(interface = &*interface.link.name, mode, ?waited, "attached");
                interface.attachment = AttachmentState::Attached(attachment);
                interface.refused = None;
                if std::mem::take(&mut interface.mending) {
                    self.counts.reattached += 1;
                    tracing::warn!(
                        interface = &*interface.link.name,
                        mode,
                        "somebody had taken a program off, it is attached again"
                    );
                }
                self.suspect(generation.ifindex);
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
            (None, Ok(attachment)) => self.order(AttachJob::Detach(attachment)),
            (None, Err(_gone_with_it)) => {}
        }
        self.note_readiness();
    }

    /// Ends the life of an interface that is gone: its last totals go where they belong.
    fn retire(&mut self, mut interface: Interface) {
        let now = Instant::now();
        self.settle_given_up(&mut interface);
        let traffic = interface.moved(self.kernel.counters.read(interface.slot));
        let result = self.kernel.leave(interface.key());
        self.check_map("index", result);
        let Interface {
            link,
            bridge,
            generation,
            slot,
            attachment,
            role,
            ..
        } = interface;
        // Filters went with the interface; links did too, but their descriptors are still open.
        if let AttachmentState::Attached(attachment @ Attachment::Tcx { .. }) = attachment {
            self.order(AttachJob::Detach(attachment));
        }
        match role {
            Role::Bridge { network } => {
                self.networks.add_past(&network, traffic, Part::Bridge);
                self.release(slot, now);
            }
            Role::Infrastructure { kind, network } => {
                self.networks
                    .add_past(&network, traffic, Part::Infrastructure(kind));
                self.release(slot, now);
            }
            Role::Container(named) => {
                self.end_series(&named, link.ifindex, slot, traffic, now);
            }
            Role::Pending { identity, .. } => {
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

    /// Gives a slot back; its drops belong to nobody from now on.
    pub(super) fn release(&mut self, slot: u32, now: Instant) {
        let result = self.kernel.set_owner(slot, OWNER_NONE);
        self.check_map("owners", result);
        self.slots.give_back(slot, now);
    }

    /// Asks whose an interface is, once the kernel says in which namespace its other end is.
    fn identify(&mut self, ifindex: u32) {
        let Some(interface) = self.interfaces.get_mut(&ifindex) else {
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
                nsid,
                peer,
                again,
            };
            if self.resolve_jobs.send(job).is_err() {
                tracing::error!("the thread that identifies interfaces has ended: new ones get no names");
            }
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
        let due: Vec<u32> = self
            .interfaces
            .values()
            .filter(is_due)
            .map(|interface| interface.link.ifindex)
            .collect();
        for ifindex in due {
            self.look_again(ifindex);
        }
    }

    /// Takes in an interface as the kernel describes it now.
    fn look_again(&mut self, ifindex: u32) {
        match get(&mut self.requests, ifindex) {
            Ok(link) => self.link_changed(link, false),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, ifindex, "cannot ask about a host end");
            }
        }
    }

    pub(super) fn order(&self, job: AttachJob) {
        // The thread lives as long as this sender does.
        drop(self.attach_jobs.send(job));
    }

    fn count_attach_error(&mut self, reason: &'static str) {
        *self.counts.attach_errors.entry(reason).or_default() += 1;
    }
}
