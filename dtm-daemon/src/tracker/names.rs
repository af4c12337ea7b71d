//! Putting the kernel's interfaces and Docker's containers together.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Instant};

use dtm_common::{
    drops::{Address, OWNER_NONE},
    index::InterfaceKey,
};

use super::{
    Infrastructure, Tracker, Traffic,
    containers::Tracked,
    interfaces::{DEVICES, GROUPS, Interface, Named, Role},
    naming::{self, Identity, UNKNOWN_INTERFACE},
    networks::Part,
    resolving::Resolved,
    sites,
};
use crate::docker::{Container, ContainerId, Network};

/// Whose an interface is.
enum Owner {
    Container(Named),
    /// A container's that is counted elsewhere.
    Nobody,
    /// Of the network with this id.
    Infrastructure {
        kind: Infrastructure,
        network: Arc<str>,
    },
}

impl Tracker {
    /// Takes in whose an interface is.
    pub(super) fn on_resolved(&mut self, resolved: Resolved) {
        let Resolved {
            generation,
            ifindex,
            identity,
        } = resolved;
        if let Some(interface) = self.interfaces.get_mut(&generation.key)
            && interface.generation == generation
        {
            if let Role::Pending {
                identity: unknown, ..
            } = &mut interface.role
            {
                *unknown = Some(identity);
            }
            if generation.key.netns == DEVICES {
                self.device_resolved(generation, ifindex);
            }
        } else if let Some(orphan) = self
            .orphans
            .iter_mut()
            .find(|orphan| orphan.generation == generation)
        {
            orphan.identity = Some(identity);
            self.unrecorded.rest = true;
        }
        self.naming_due = true;
    }

    /// Names everything that can be named by now.
    pub(super) fn name_all(&mut self) {
        let pending = self
            .interfaces
            .values()
            .filter(|interface| interface.can_be_named())
            .filter_map(|interface| match &interface.role {
                Role::Pending {
                    identity: Some(identity),
                    ..
                } => Some((
                    interface.generation.key,
                    self.choose(
                        interface.generation.key.netns,
                        interface.bridge.as_deref(),
                        identity,
                    )?,
                )),
                _ => None,
            });
        for (key, owner) in pending.collect::<Vec<_>>() {
            match owner {
                Owner::Container(named) => self.begin_series(key, named),
                Owner::Infrastructure { kind, network } => self.begin_infrastructure(key, kind, network),
                Owner::Nobody => self.leave_group(key),
            }
        }
        self.unrecorded.rest |= !self.orphans.is_empty();
        for orphan in std::mem::take(&mut self.orphans) {
            let owner = orphan.identity.as_ref().and_then(|identity| {
                self.choose(orphan.generation.key.netns, orphan.bridge.as_deref(), identity)
            });
            match owner {
                Some(Owner::Container(named)) => self.bury(&orphan, &named),
                Some(Owner::Infrastructure { kind, network }) => {
                    self.bury_infrastructure(&orphan, kind, &network);
                }
                Some(Owner::Nobody) => self.end_slot(orphan.slot, None, Instant::now()),
                None => self.orphans.push(orphan),
            }
        }
    }

    /// Whose an interface is, if Docker has told enough.
    fn choose(&self, netns: u32, bridge: Option<&str>, identity: &Identity) -> Option<Owner> {
        let container = naming::owner(identity, |id| {
            self.containers.get(id).map(|tracked| &tracked.container)
        });
        let Some(container) = container else {
            let kind = identity.infrastructure?;
            let network = self.network_of(netns, bridge)?;
            let network = Arc::clone(&network.id);
            return Some(Owner::Infrastructure { kind, network });
        };
        if netns == GROUPS {
            return self
                .is_on_host(&container.id)
                .map(|_is_on_host| self.host_named(container).map_or(Owner::Nobody, Owner::Container));
        }
        let peer = identity.peer.as_ref();
        let network = self
            .network_of(netns, bridge)
            .or_else(|| naming::network(container, peer, self.networks.known()))?;
        Some(Owner::Container(Named {
            container: container.id.clone(),
            network: (Arc::clone(&network.id), Arc::clone(&network.name)),
            interface: peer.map_or_else(|| Arc::from(UNKNOWN_INTERFACE), |peer| Arc::clone(&peer.name)),
            netns_inode: identity.netns_inode,
            addresses: Vec::new(),
        }))
    }

    /// The network that the place of a host end stands for: the one its namespace hides, or whose bridge it is on.
    pub(super) fn network_of(&self, netns: u32, bridge: Option<&str>) -> Option<&Network> {
        match self
            .namespaces
            .get(&netns)
            .and_then(|namespace| namespace.network.as_deref())
        {
            Some(beginning) => naming::hidden_network(beginning, self.networks.known()),
            None => naming::network_of_bridge(bridge?, self.networks.known()),
        }
    }

    /// Makes an interface count for its container; what it counted since the attach goes along.
    fn begin_series(&mut self, key: InterfaceKey, mut named: Named) {
        if self.containers.get(&named.container).is_none() {
            return;
        }
        let Some(mut interface) = self.interfaces.remove(&key) else {
            return;
        };
        self.settle_given_up(&mut interface);
        let interface = self.interfaces.get_or_insert_with(key, || interface);
        let Some(tracked) = self.containers.get_mut(&named.container) else {
            return;
        };
        let (slot, pending_owner) = (interface.slot(), interface.pending_owner());
        let Role::Pending { identity, .. } = &interface.role else {
            return;
        };
        let peer_addresses = identity
            .as_ref()
            .and_then(|identity| identity.peer.as_ref())
            .map(|peer| peer.addresses.clone());
        tracing::debug!(
            container = &*tracked.container.name,
            network = &*named.network.1,
            interface = &*named.interface,
            host_end = &*interface.link.name,
            "named"
        );
        tracked
            .series
            .entry(named.series_key())
            .or_default()
            .live
            .insert(key);
        tracked.aliases.insert(pending_owner);
        if let Some(inode) = named.netns_inode {
            *tracked.netns.entry(inode).or_default() += 1;
        }
        tracked.note_end(Instant::now());
        let number = tracked.number;
        self.flows
            .name(sites::number(interface.generation), &tracked.container.name);
        let endpoint_addresses = endpoint_addresses(&tracked.container, &named);
        let result = self.kernel.owners.set_slot(slot, number);
        self.check_map("owners", result);
        self.own_group(key, number);
        if let Some(inode) = named.netns_inode {
            let result = self.kernel.owners.set_netns(inode, Some(number));
            self.check_map("netns_owners", result);
        }
        let addresses = peer_addresses
            .unwrap_or_default()
            .into_iter()
            .chain(endpoint_addresses);
        self.claim(&mut named.addresses, number, addresses);
        let (id, inode) = (named.container.clone(), named.netns_inode);
        if let Some(interface) = self.interfaces.get_mut(&key) {
            interface.role = Role::Container(named);
        }
        self.begin_site(key);
        self.claim_peers(key);
        self.begin_tcp(&id, inode);
    }

    /// Ends an interface's part in its series.
    pub(super) fn end_series(
        &mut self,
        named: &Named,
        key: InterfaceKey,
        slot: u32,
        traffic: &Traffic,
        now: Instant,
    ) {
        self.networks
            .add_past(&named.network.0, traffic, Part::Containers);
        let Some(tracked) = self.containers.get_mut(&named.container) else {
            self.end_slot(slot, None, now);
            return;
        };
        let series = tracked.series.entry(named.series_key()).or_default();
        series.live.remove(&key);
        series.add_past(traffic, now);
        let number = tracked.number;
        let last_there = named.netns_inode.filter(|inode| tracked.leaves(*inode));
        tracked.note_end(now);
        if !tracked.has_interface() {
            self.end_tcp(&named.container);
        }
        if let Some(inode) = last_there {
            let result = self.kernel.owners.set_netns(inode, None);
            self.check_map("netns_owners", result);
        }
        for address in &named.addresses {
            let owner = self.addresses.remove(*address, number);
            let result = self.kernel.owners.set_address(*address, owner);
            self.check_map("address_owners", result);
        }
        let result = self.kernel.owners.set_slot(slot, OWNER_NONE);
        self.check_map("owners", result);
        self.end_slot(slot, Some(named.container.clone()), now);
    }

    /// Takes in addresses that Docker told of after an interface was named.
    pub(super) fn claim_endpoints(&mut self, id: &ContainerId) {
        let Some(tracked) = self.containers.get(id) else {
            return;
        };
        let (container, number) = (Arc::clone(&tracked.container), tracked.number);
        let live: Vec<InterfaceKey> = tracked
            .series
            .values()
            .flat_map(|series| series.live.iter().copied())
            .collect();
        for key in live {
            let Some(Interface {
                role: Role::Container(named),
                ..
            }) = self.interfaces.get_mut(&key)
            else {
                continue;
            };
            let addresses = endpoint_addresses(&container, named);
            let mut claimed = std::mem::take(&mut named.addresses);
            self.claim(&mut claimed, number, addresses);
            if let Some(Interface {
                role: Role::Container(named),
                ..
            }) = self.interfaces.get_mut(&key)
            {
                named.addresses = claimed;
            }
        }
    }

    /// Adds the addresses that are not in `claimed` yet to those that stand for a container.
    fn claim(
        &mut self,
        claimed: &mut Vec<Address>,
        number: u32,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        // A container may give itself any number of addresses.
        let mut known: HashSet<Address> = claimed.iter().copied().collect();
        for address in addresses.into_iter().filter_map(routable) {
            if !known.insert(address) {
                continue;
            }
            claimed.push(address);
            let owner = self.addresses.add(address, number);
            let result = self.kernel.owners.set_address(address, owner);
            self.check_map("address_owners", result);
        }
    }

    /// Forgets containers whose totals have lingered.
    pub(super) fn forget(&mut self, expired: &[Tracked]) {
        if expired.is_empty() {
            return;
        }
        let owners = expired.iter().flat_map(|tracked| {
            let aliases = tracked.aliases.iter().copied();
            aliases.chain([tracked.number])
        });
        for drops in self.fold_drops(&owners.collect()).values() {
            self.forget_drops(drops, false);
        }
        for tracked in expired {
            self.forget_drops(&tracked.past_drops, false);
            self.forget_tcp(tracked.number);
        }
    }
}

/// What Docker says are the addresses of an interface.
fn endpoint_addresses(container: &Container, named: &Named) -> Vec<IpAddr> {
    let mut endpoints = container.endpoints.iter();
    endpoints
        .find(|endpoint| endpoint.network_id == named.network.0)
        .map_or_else(Vec::new, |endpoint| endpoint.addresses.clone())
}

/// The address as the kernel side knows it, unless it is one that every network has.
fn routable(address: IpAddr) -> Option<Address> {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_everywhere = is_link_local || address.is_loopback() || address.is_unspecified();
    (!is_everywhere).then(|| address.into())
}
