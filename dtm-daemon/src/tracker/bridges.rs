//! Bridges come to be Docker's and stop being so, and with them what is on them.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::index::InterfaceKey;

use super::{
    Tracker,
    attaching::{AttachJob, Generation},
    interfaces::{AttachmentState, Interface, OWN_NETNS, Role},
    networks::Part,
};

/// How long the host end of a pair on a bridge Docker does not know may wait for a name.
const FOREIGN_AFTER: Duration = Duration::from_secs(10);

impl Tracker {
    /// Takes in that Docker's networks have changed: bridges may have become Docker's.
    pub(super) fn bridges_changed(&mut self) -> anyhow::Result<()> {
        for link in self.bridges.values().cloned().collect::<Vec<_>>() {
            self.link_changed(OWN_NETNS, link, false);
        }
        let Self {
            foreign,
            bridges,
            networks,
            ..
        } = self;
        let before = foreign.len();
        foreign.retain(|_key, master| {
            bridges
                .get(master)
                .is_none_or(|bridge| networks.of_bridge(&bridge.name).is_none())
        });
        if foreign.len() == before {
            Ok(())
        } else {
            self.resynchronise(OWN_NETNS, false)
        }
    }

    /// Lets a bridge count for another network than before: an engine that starts makes its default network anew, on
    /// the bridge it finds.
    pub(super) fn hand_over(&mut self, bridge: InterfaceKey, heir: &Arc<str>) {
        let Some(interface) = self.interfaces.get_mut(&bridge) else {
            return;
        };
        if let Role::Bridge { network } = &mut interface.role
            && network != heir
        {
            let former = std::mem::replace(network, Arc::clone(heir));
            let counted = interface.counted(&self.kernel.counters, self.former.as_ref());
            self.networks
                .add_past(&former, &interface.moved(&counted), Part::Bridge);
            interface.base = counted;
            self.sites.reconsider();
        }
    }

    /// Forgets networks that Docker has removed, once their sums have lingered and no container is on them.
    pub(super) fn expire_networks(&mut self, now: Instant) {
        self.leave_former_bridges(now);
        let in_use: HashSet<_> = self
            .interfaces
            .values()
            .filter_map(|interface| match &interface.role {
                Role::Container(named) => Some(Arc::clone(&named.network.0)),
                Role::Infrastructure { network, .. } => Some(Arc::clone(network)),
                Role::Pending { .. } | Role::Bridge { .. } => None,
            })
            .collect();
        self.networks.expire(now, self.linger, &in_use);
    }

    /// Leaves the bridges of networks that are about to be forgotten: one that somebody made by hand outlives its network.
    fn leave_former_bridges(&mut self, now: Instant) {
        let (networks, linger) = (&self.networks, self.linger);
        let is_former = |interface: &Interface| match &interface.role {
            Role::Bridge { network } => networks.has_lingered(network, now, linger),
            Role::Pending { .. } | Role::Container(_) | Role::Infrastructure { .. } => false,
        };
        let former = self.interfaces.take_if(|_key, interface| is_former(interface));
        for (_key, interface) in former {
            let counted = interface.counted(&self.kernel.counters, self.former.as_ref());
            if let Some((network, part)) = interface.role.part() {
                // One that was made again under its name inherits them.
                self.networks.add_past(network, &interface.moved(&counted), part);
            }
            self.leave(interface, now);
        }
    }

    /// Asks about networks while somebody waits for a name on a network that Docker has not told of: of the one that its
    /// Swarm makes for itself, `docker_gwbridge`, it tells nobody, and of an overlay network no other node.
    pub(super) fn ask_for_networks(&self, now: Instant) {
        let pending = self
            .interfaces
            .values()
            .filter(|interface| matches!(interface.role, Role::Pending { .. }))
            .map(|interface| (interface.generation, &interface.bridge, interface.since));
        let orphans = self.orphans.iter();
        let orphans = orphans.map(|orphan| (orphan.generation, &orphan.bridge, orphan.since));
        let is_unknown = |(generation, bridge, since): (Generation, &Option<Arc<str>>, Instant)| {
            let netns = generation.key.netns;
            let is_somewhere = bridge.is_some() || self.is_hidden(netns);
            now.duration_since(since) < FOREIGN_AFTER
                && is_somewhere
                && self.network_of(netns, bridge.as_deref()).is_none()
        };
        if pending.chain(orphans).any(is_unknown) {
            self.unknown_networks.notify_one();
        }
    }

    /// Leaves alone what turned out to be somebody else's: host ends on bridges that Docker does not know.
    pub(super) fn leave_foreign(&mut self, now: Instant) {
        if self.docker.up != Some(true) {
            return;
        }
        let networks = &self.networks;
        let is_foreign = |interface: &Interface| {
            matches!(interface.role, Role::Pending { .. })
                && now.duration_since(interface.since) >= FOREIGN_AFTER
                && interface
                    .bridge
                    .as_ref()
                    .is_some_and(|bridge| networks.of_bridge(bridge).is_none())
        };
        let foreign = self.interfaces.take_if(|_key, interface| is_foreign(interface));
        for (key, mut interface) in foreign {
            self.settle_given_up(&mut interface);
            tracing::info!(
                interface = &*interface.link.name,
                bridge = interface.bridge.as_deref(),
                "not on a network of Docker's, left alone"
            );
            self.foreign
                .extend(interface.link.master.map(|master| (key, master)));
            self.leave(interface, now);
        }
    }

    /// Takes the programs off an interface that goes on without them.
    fn leave(&mut self, interface: Interface, now: Instant) {
        let slot = interface.slot();
        self.end_site(interface.generation);
        self.leave_index(interface.generation.key);
        if let AttachmentState::Attached(attachment) = interface.attachment {
            self.order(interface.generation.key.netns, AttachJob::Detach(attachment));
        }
        self.end_slot(slot, None, now);
    }
}
