//! Where dtm counts, or tries to, as the API shows it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use dtm_common::index::InterfaceKey;
use serde::Serialize;

use super::{
    Tracker,
    interfaces::{DEVICES, GROUPS, Interface, Named, OWN_NETNS, REFUSED, Role},
    placing::{Hook, advice},
};
use crate::docker::Network;

/// What the API calls dtm's own network namespace.
const HOST: &str = "host";

/// Everywhere that dtm counts or tries to, and the containers it cannot count.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Places {
    /// Sorted by container, network, interface and place.
    pub interfaces: Vec<PlaceSnapshot>,
    /// Sorted by name, then id.
    pub uncovered: Vec<UncoveredSnapshot>,
}

/// One place at which dtm counts or tries to. Nothing is known of what is none.
#[derive(Clone, Debug, Default, PartialEq, PartialOrd, Serialize)]
pub struct PlaceSnapshot {
    /// The container's name.
    pub name: Option<Arc<str>>,
    /// The first 12 digits of the container's id.
    pub container_id: Option<Arc<str>>,
    /// Docker's name of the network.
    pub network: Option<Arc<str>>,
    /// Docker's driver of it.
    pub driver: Option<Arc<str>>,
    /// The interface's name inside the container; empty on the host's network.
    pub interface: Option<Arc<str>>,
    /// What it is for, where it belongs to Docker itself: the `kind` of `dtm_infrastructure_*`.
    pub kind: Option<&'static str>,
    /// `host_end`, `own_device`, `cgroup` or `bridge`.
    pub hook: &'static str,
    /// `tcx`, `clsact`, `cgroup`, or `none` while nothing is attached.
    pub mode: &'static str,
    /// `pending`, `named`, `infrastructure`, `bridge`, `failed` or `refused`.
    pub state: &'static str,
    /// The network namespace: `host` for dtm's own, else as the kernel writes it, `net:[4026532301]`; none for a group.
    pub namespace: Option<Arc<str>>,
    /// The interface's index there.
    pub ifindex: Option<u32>,
    /// The interface's name there, of a host end or a bridge.
    pub device: Option<Arc<str>>,
    /// The control group's path from the root of the hierarchy.
    pub cgroup: Option<Arc<str>>,
    /// When dtm first saw it, in seconds since the epoch.
    pub since: Option<f64>,
    /// Whose program runs there before dtm's.
    pub preceded_by: Option<Arc<str>>,
    /// Why the last attempt to attach failed: the `reason` of `dtm_attach_errors_total`.
    pub reason: Option<&'static str>,
    /// Counts the lives of everything that dtm has attached to.
    pub generation: Option<u64>,
}

/// A container of which traffic cannot be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct UncoveredSnapshot {
    /// Its name.
    pub name: Arc<str>,
    /// The first 12 digits of its id.
    pub container_id: Arc<str>,
    /// The `reason` of `dtm_container_uncovered`.
    pub reason: &'static str,
    /// What to do about it, in one sentence.
    pub advice: &'static str,
}

impl Tracker {
    /// Everything that is attached to or about to be, without a look at any map: what is counted there is in
    /// [`Snapshot::lives`](super::Snapshot::lives).
    pub(super) fn places(&self, now: Instant) -> Places {
        let host = Arc::from(HOST);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = |seen: Instant| {
            let seen = clock.saturating_sub(now.duration_since(seen));
            // The two clocks are read one after the other: less than a millisecond would not be the same twice.
            seen.as_millis() as f64 / 1_000.0
        };
        let known = self.interfaces.values().map(|interface| PlaceSnapshot {
            since: Some(since(interface.since)),
            ..self.place_of(interface, &host)
        });
        let refused = self.refused.iter().map(|key| self.refused_place(*key, &host));
        let mut interfaces: Vec<_> = known.chain(refused).collect();
        interfaces.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
        let mut uncovered: Vec<_> = self
            .containers
            .iter()
            .filter(|tracked| tracked.is_living())
            .filter_map(|tracked| {
                let reason = self.uncovered(tracked)?;
                Some(UncoveredSnapshot {
                    name: Arc::clone(&tracked.container.name),
                    container_id: Arc::from(tracked.container.id.short()),
                    reason,
                    advice: advice(reason),
                })
            })
            .collect();
        uncovered.sort();
        Places {
            interfaces,
            uncovered,
        }
    }

    fn place_of(&self, interface: &Interface, host: &Arc<str>) -> PlaceSnapshot {
        let key = interface.generation.key;
        let (state, mode) = interface.state();
        let hook = match (key.netns, &interface.role) {
            (GROUPS, _) => Hook::Cgroup,
            (DEVICES, _) => Hook::OwnDevice,
            (_, Role::Bridge { .. }) => Hook::Bridge,
            _ => Hook::HostEnd,
        };
        let there = || Some(Arc::clone(&interface.link.name));
        let (namespace, ifindex, device, cgroup) = match hook {
            Hook::Cgroup => (None, None, None, there()),
            Hook::OwnDevice => match self.devices.whereabouts(key) {
                Some((None, ifindex)) => (Some(Arc::clone(host)), Some(ifindex), None, None),
                Some((Some(inode), ifindex)) => (Some(netns_name(inode)), Some(ifindex), None, None),
                None => (None, None, None, None),
            },
            Hook::HostEnd | Hook::Bridge => (self.netns_of(key, host), Some(key.ifindex), there(), None),
        };
        let network = |id: &Arc<str>| self.networks.get(id);
        let (container, network, kind) = match &interface.role {
            Role::Pending { .. } => {
                let network = self.network_of(key.netns, interface.bridge.as_deref());
                (None, network, None)
            }
            Role::Container(named) => (Some(named), network(&named.network.0), None),
            Role::Infrastructure { kind, network: id } => (None, network(id), Some(kind.as_str())),
            Role::Bridge { network: id } => (None, network(id), None),
        };
        PlaceSnapshot {
            container_id: container.map(|named| Arc::from(named.container.short())),
            name: container.and_then(|named| self.name_of(named)),
            // Of a network that is forgotten the series still has the name.
            network: container
                .map(|named| Arc::clone(&named.network.1))
                .or_else(|| network.map(|network| Arc::clone(&network.name))),
            driver: network.map(|network: &Network| Arc::clone(&network.driver)),
            interface: container.map(|named| Arc::clone(&named.interface)),
            kind,
            hook: hook.as_str(),
            mode,
            state,
            namespace,
            ifindex,
            device,
            cgroup,
            since: None,
            preceded_by: interface.preceded.clone(),
            reason: interface.refused,
            generation: Some(interface.generation.number),
        }
    }

    /// One that found every slot in use.
    fn refused_place(&self, key: InterfaceKey, host: &Arc<str>) -> PlaceSnapshot {
        let (state, mode) = REFUSED;
        let bridge = self.bridges.get(&key.ifindex).filter(|_| key.netns == OWN_NETNS);
        PlaceSnapshot {
            hook: bridge.map_or(Hook::HostEnd, |_bridge| Hook::Bridge).as_str(),
            mode,
            state,
            namespace: self.netns_of(key, host),
            ifindex: Some(key.ifindex),
            reason: Some("no_slot"),
            ..PlaceSnapshot::default()
        }
    }

    fn name_of(&self, named: &Named) -> Option<Arc<str>> {
        let tracked = self.containers.get(&named.container)?;
        Some(Arc::clone(&tracked.container.name))
    }

    /// The namespace that an interface is known by.
    fn netns_of(&self, key: InterfaceKey, host: &Arc<str>) -> Option<Arc<str>> {
        if key.netns == OWN_NETNS {
            return Some(Arc::clone(host));
        }
        let namespace = self.namespaces.get(&key.netns)?;
        namespace.inode.map(netns_name)
    }
}

/// As `/proc/<pid>/ns/net` reads.
fn netns_name(inode: u64) -> Arc<str> {
    format!("net:[{inode}]").into()
}
