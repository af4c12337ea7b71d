//! Where a container is counted, and why not: pure choices over what Docker says, for the daemon and for `dtm check`.

mod advice;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

pub(crate) use self::advice::advice;
use crate::docker::{Container, ContainerId, Network};

/// Docker's name for the network that is the host's own.
pub(crate) const HOST_NETWORK: &str = "host";

/// Docker's driver of the network `none`.
const NO_NETWORK: &str = "null";

/// The reason of a container on the host's network where there are no control groups to count at.
pub(crate) const NO_HIERARCHY: &str = "cgroup_v2_missing";

/// The reason of one whose control group is not there.
pub(crate) const NO_GROUP: &str = "cgroup_not_found";

/// The reason for what a rootless engine keeps out of sight.
const ROOTLESS: &str = "rootless_engine";

/// Where programs sit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// At the host end of a container's pair.
    HostEnd,
    /// At a device that the container has to itself.
    OwnDevice,
    /// At the container's control group.
    Cgroup,
    /// At the bridge of a network, between it and the host.
    Bridge,
}

impl Hook {
    /// The word for it in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::HostEnd => "host_end",
            Self::OwnDevice => "own_device",
            Self::Cgroup => "cgroup",
            Self::Bridge => "bridge",
        }
    }
}

/// Where a container's traffic is on a network of this driver; none where dtm does not know that.
pub(crate) fn hook(driver: &str) -> Option<Hook> {
    match driver {
        "bridge" | "overlay" => Some(Hook::HostEnd),
        "macvlan" | "ipvlan" => Some(Hook::OwnDevice),
        "host" => Some(Hook::Cgroup),
        _ => None,
    }
}

/// Whether containers have devices to themselves on a network, with no end at the host.
pub(crate) fn has_own_devices(network: &Network) -> bool {
    hook(&network.driver) == Some(Hook::OwnDevice)
}

/// Whether a network's bridge and host ends are in a namespace that the engine made for it.
pub(crate) fn is_hidden(network: &Network) -> bool {
    &*network.driver == "overlay"
}

/// Where a container is to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// At its control group: it is on the host's network, by itself or with another.
    Group,
    /// Nowhere a second time: the namespace it is in is this one's, which is counted.
    Under(ContainerId),
    /// On each of these networks, as [`hook`] says; on none there is nothing to count.
    On(Vec<&'a Network>),
}

/// Where a container is to be counted. None while Docker has not said.
pub(crate) fn place<'a>(
    container: &Container,
    networks: &'a HashMap<Arc<str>, Network>,
    find: impl Fn(&ContainerId) -> Option<&'a Arc<Container>>,
) -> Option<Place<'a>> {
    if is_on_host(container, find)? {
        return Some(Place::Group);
    }
    if let Some(joined) = joined(container) {
        return Some(Place::Under(joined));
    }
    let endpoints = container.endpoints.iter();
    let networks = endpoints.filter_map(|endpoint| networks.get(&endpoint.network_id));
    Some(Place::On(
        networks
            .filter(|network| &*network.driver != NO_NETWORK)
            .collect(),
    ))
}

/// The container whose namespace this one has joined.
fn joined(container: &Container) -> Option<ContainerId> {
    ContainerId::parse(container.network_mode.strip_prefix("container:")?)
}

/// Whether a container is on the host's network: by its own mode, or by that of the one whose network it shares. None
/// while Docker has not said.
pub(crate) fn is_on_host<'a>(
    container: &Container,
    find: impl Fn(&ContainerId) -> Option<&'a Arc<Container>>,
) -> Option<bool> {
    let mut mode = &container.network_mode;
    // Docker lets nobody join one that joins another; somebody else's engine may.
    for _ in 0..8 {
        match &**mode {
            "" => return None,
            HOST_NETWORK => return Some(true),
            other => match other.strip_prefix("container:") {
                Some(id) => mode = &find(&ContainerId::parse(id)?)?.network_mode,
                None => return Some(false),
            },
        }
    }
    Some(false)
}

/// What is known of a container's places.
pub(crate) trait Sight {
    /// Whether its engine is rootless, and has its networks in a namespace that `RootlessKit` keeps.
    fn is_rootless(&self) -> bool;

    /// Whether there is a bridge of this name where dtm is.
    fn has_bridge(&self, name: &str) -> bool;

    /// Why nothing counts at its control group, where that is so.
    fn group(&self) -> Option<&'static str>;

    /// Whether something counts for it on this network, or can.
    fn is_counted_on(&self, network: &Network) -> bool;
}

/// Why traffic of a container is not counted, for the first of its networks of which that is so.
pub(crate) fn uncovered(place: &Place<'_>, sight: &impl Sight) -> Option<&'static str> {
    match place {
        Place::Group => sight.group().map(|reason| {
            // Its groups are a user's, and not all are made.
            if sight.is_rootless() { ROOTLESS } else { reason }
        }),
        Place::Under(_) => None,
        Place::On(networks) => networks.iter().find_map(|network| uncovered_on(network, sight)),
    }
}

/// The same, on one of its networks.
pub(crate) fn uncovered_on(network: &Network, sight: &impl Sight) -> Option<&'static str> {
    if sight.is_counted_on(network) {
        return None;
    }
    match &*network.driver {
        _ if sight.is_rootless() => Some(ROOTLESS),
        // Whatever is on a bridge that is here is seen, named or not.
        "bridge" => {
            let bridge = network.bridge.as_deref();
            let is_elsewhere = bridge.is_some_and(|bridge| !sight.has_bridge(bridge));
            is_elsewhere.then_some("bridge_not_found")
        }
        "host" => None,
        "overlay" => Some("overlay_network"),
        "macvlan" => Some("macvlan_network"),
        "ipvlan" => Some("ipvlan_network"),
        _ => Some("network_driver"),
    }
}
