//! Whose interface this is: pure choices over what the kernel and Docker said.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Infrastructure, placing::is_hidden};
use crate::{
    docker::{Container, ContainerId, Network},
    net::Peer,
};

/// What the kernel says about the other end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Inode of the namespace the other end is in; none for a control group.
    pub(crate) netns_inode: Option<u32>,
    /// One of the processes there.
    pub(crate) process: Option<i32>,
    /// Ids found in the control groups of the processes there, outermost first.
    pub(crate) containers: Vec<ContainerId>,
    /// What it is for, where it is a sandbox of Docker's own machinery.
    pub(crate) infrastructure: Option<Infrastructure>,
    /// The other end; none where it was gone before it could be asked about.
    pub(crate) peer: Option<Peer>,
}

/// The container a namespace belongs to: the one that made it, not those that joined it. One that is only known from
/// its first event may be either: another that has made a namespace of its own comes before it.
///
/// None where Docker has not told about any of them yet.
pub(crate) fn owner<'a>(
    identity: &Identity,
    container: impl Fn(&ContainerId) -> Option<&'a Arc<Container>>,
) -> Option<&'a Arc<Container>> {
    let known = identity.containers.iter().filter_map(container);
    let mut makers: Vec<_> = known
        .filter(|container| !container.network_mode.starts_with("container:"))
        .collect();
    makers.sort_by_key(|container| container.network_mode.is_empty());
    makers.first().copied()
}

/// The Docker network whose bridge has this name.
pub(crate) fn network_of_bridge<'a>(
    bridge: &str,
    mut networks: impl Iterator<Item = &'a Network>,
) -> Option<&'a Network> {
    networks.find(|network| network.bridge.as_deref() == Some(bridge))
}

/// The overlay network whose id begins like this.
pub(crate) fn hidden_network<'a>(
    beginning: &str,
    mut networks: impl Iterator<Item = &'a Network>,
) -> Option<&'a Network> {
    networks.find(|network| is_hidden(network) && network.id.starts_with(beginning))
}

/// The Docker network of an interface of `container` whose place says nothing of it: that of the endpoint with the
/// interface's hardware address or one of its addresses.
///
/// Where its place does, that decides: a container can be on a bridge's network once only, and changes what it likes.
pub(crate) fn network<'a>(
    container: &Container,
    peer: Option<&Peer>,
    mut networks: impl Iterator<Item = &'a Network>,
) -> Option<&'a Network> {
    let peer = peer?;
    let shares_address =
        |addresses: &[IpAddr]| addresses.iter().any(|address| peer.addresses.contains(address));
    let endpoint = container.endpoints.iter().find(|endpoint| {
        endpoint.mac.is_some_and(|mac| peer.mac == Some(mac)) || shares_address(&endpoint.addresses)
    })?;
    networks.find(|network| network.id == endpoint.network_id)
}

/// The label of an interface whose name could not be read before it was gone.
pub(crate) const UNKNOWN_INTERFACE: &str = "unknown";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::docker::{
        Endpoint,
        fixture::{self, id},
    };

    fn container(digit: char, network_mode: &str, endpoints: Vec<Endpoint>) -> Arc<Container> {
        Arc::new(Container {
            endpoints,
            ..fixture::container(digit, network_mode, &[])
        })
    }

    fn networks() -> HashMap<Arc<str>, Network> {
        let network = |id: &str, driver: &str, bridge: Option<&str>| Network {
            name: Arc::from(format!("{id}-name")),
            ..fixture::network(id, driver, bridge)
        };
        let networks = [
            network("front", "bridge", Some("br-front")),
            network("far", "macvlan", None),
            network("back", "bridge", None),
        ];
        networks
            .into_iter()
            .map(|network| (Arc::clone(&network.id), network))
            .collect()
    }

    fn endpoint(network: &str, mac: u8, address: &str) -> Endpoint {
        Endpoint {
            network: Arc::from(format!("{network}-name")),
            network_id: Arc::from(network),
            mac: Some([2, 0, 0, 0, 0, mac]),
            addresses: vec![address.parse().unwrap()],
        }
    }

    fn peer(mac: u8, address: &str) -> Peer {
        Peer {
            name: Arc::from("eth0"),
            mac: Some([2, 0, 0, 0, 0, mac]),
            up: true,
            addresses: vec![address.parse().unwrap()],
        }
    }

    #[test]
    fn a_namespace_belongs_to_the_container_that_made_it() {
        let (owner_container, sidecar) = (
            container('a', "front", vec![]),
            container('b', "container:aaaa", vec![]),
        );
        let all = [owner_container, sidecar];
        let find = |wanted: &ContainerId| all.iter().find(|container| container.id == *wanted);
        let identity = Identity {
            netns_inode: Some(1),
            process: None,
            infrastructure: None,
            containers: vec![id('b'), id('a')],
            peer: None,
        };
        assert_eq!(
            owner(&identity, find).map(|container| container.id.clone()),
            Some(id('a'))
        );
    }

    #[test]
    fn a_container_that_may_have_joined_comes_after_the_one_that_surely_has_not() {
        let all = [container('a', "", vec![]), container('b', "front", vec![])];
        let find = |wanted: &ContainerId| all.iter().find(|container| container.id == *wanted);
        let of = |containers: &[char]| Identity {
            netns_inode: Some(1),
            process: None,
            infrastructure: None,
            containers: containers.iter().copied().map(id).collect(),
            peer: None,
        };
        let owner = |containers| owner(&of(containers), find).map(|container| container.id.clone());
        assert_eq!(owner(&['a', 'b']), Some(id('b')));
        assert_eq!(
            owner(&['a']),
            Some(id('a')),
            "one that lived for a moment only is known no better"
        );
    }

    #[test]
    fn a_container_docker_has_not_told_about_owns_nothing_yet() {
        let identity = Identity {
            netns_inode: Some(1),
            process: None,
            infrastructure: None,
            containers: vec![id('c')],
            peer: None,
        };
        assert_eq!(owner(&identity, |_id| None), None);
    }

    #[test]
    fn a_hidden_network_is_the_one_whose_id_begins_so() {
        let overlay = |id| fixture::network(id, "overlay", None);
        let bridge = Network {
            driver: Arc::from("bridge"),
            ..overlay("q3fqy0zgcpaaa")
        };
        let networks = [bridge, overlay("q3fqy0zgcqbbb"), overlay("q3fqy0zgcpccc")];
        let found = hidden_network("q3fqy0zgcp", networks.iter()).unwrap();
        assert_eq!(&*found.id, "q3fqy0zgcpccc");
        assert_eq!(hidden_network("zzzzzzzzzz", networks.iter()), None);
    }

    #[test]
    fn mac_or_address_choose_the_endpoint() {
        let networks = networks();
        let container = container(
            'a',
            "back",
            vec![endpoint("far", 1, "10.0.0.2"), endpoint("back", 2, "10.0.1.2")],
        );
        let by_mac = network(&container, Some(&peer(2, "192.0.2.1")), networks.values()).unwrap();
        assert_eq!(&*by_mac.id, "back");
        let by_address = network(&container, Some(&peer(9, "10.0.0.2")), networks.values()).unwrap();
        assert_eq!(&*by_address.id, "far");
        assert_eq!(network(&container, None, networks.values()), None);
    }
}
