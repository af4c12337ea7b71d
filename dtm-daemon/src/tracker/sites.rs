//! Where each interface is, and who has which address: what the kernel side needs to know to tell where traffic goes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::Instant,
};

use dtm_common::{
    index::InterfaceKey,
    views::{
        AddressKind, PEER_HOST, PREFIXES, PeerKey, Prefix, ROUTED, SITE_BRIDGE, SITE_COUNTED, SITE_STRICT,
        Site, Words, kind,
    },
};

use super::{
    Tracker,
    attaching::Generation,
    claims::Claims,
    interfaces::{GROUPS, Interface, Role},
    placing::has_own_devices,
};
use crate::{
    docker::{Container, ContainerId, Network, Subnet},
    net::InterfaceAddress,
};

/// What the kernel side is to know.
#[derive(Debug)]
pub(super) struct Sites {
    /// Something has changed that many of them depend on. Looked at once for all that happens at a time.
    is_due: bool,
    /// Nothing has been told yet: what the kernel side knows is an earlier process'.
    is_first: bool,
    /// The host's own addresses, by interface.
    host: BTreeMap<u32, BTreeSet<IpAddr>>,
    claims: Claims<PeerKey>,
    /// What each interface claims, by its number, and the host by [`PEER_HOST`].
    of: HashMap<u32, BTreeSet<PeerKey>>,
    /// Groups by the numbers of what counts there.
    senders: HashMap<u32, u64>,
}

impl Sites {
    pub(super) fn new() -> Self {
        Self {
            is_due: true,
            is_first: true,
            host: BTreeMap::new(),
            claims: Claims::new(),
            of: HashMap::new(),
            senders: HashMap::new(),
        }
    }

    /// Has all of them looked at again.
    pub(super) fn reconsider(&mut self) {
        self.is_due = true;
    }

    pub(super) fn add_host_address(&mut self, ifindex: u32, address: IpAddr) {
        self.is_due |= self.host.entry(ifindex).or_default().insert(address);
    }

    pub(super) fn remove_host_address(&mut self, ifindex: u32, address: IpAddr) {
        if let Some(addresses) = self.host.get_mut(&ifindex) {
            self.is_due |= addresses.remove(&address);
            if addresses.is_empty() {
                self.host.remove(&ifindex);
            }
        }
    }

    /// Takes in all addresses that the host has.
    pub(super) fn set_host_addresses(&mut self, all: Vec<InterfaceAddress>) {
        let mut host = BTreeMap::<u32, BTreeSet<IpAddr>>::new();
        for (ifindex, address) in all {
            host.entry(ifindex).or_default().insert(address);
        }
        self.is_due |= host != self.host;
        self.host = host;
    }
}

/// The number of an interface's life on the kernel side.
pub(super) fn number(generation: Generation) -> u32 {
    generation.number as u32
}

/// dtm's number for a network's addresses: one that an earlier dtm had, too. FNV-1a of its id, for ids are random and a
/// collision in 64 bits does not happen.
fn space(network: &str) -> u64 {
    let hash = network.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // 0 is what the host routes.
    hash.max(ROUTED + 1)
}

fn words(address: IpAddr) -> Words {
    Words::of(address.into())
}

/// The prefixes of a network as the kernel side knows them; further ones are not looked at.
fn prefixes(subnets: &[Subnet]) -> [Prefix; PREFIXES] {
    let mut prefixes = [Prefix::NONE; PREFIXES];
    for (prefix, Subnet { address, bits }) in prefixes.iter_mut().zip(subnets) {
        let mapped = if address.is_ipv4() { 96 } else { 0 };
        *prefix = Prefix::new(words(*address), mapped + u32::from(*bits));
    }
    prefixes
}

/// Where something on a network is.
fn site_on(network: &Network, flags: u32) -> Site {
    Site {
        number: 0,
        flags: flags | if has_own_devices(network) { SITE_STRICT } else { 0 },
        space: space(&network.id),
        ..Site::default()
    }
    .with_prefixes(prefixes(&network.subnets))
}

/// The link-local address that the kernel gives an interface with this hardware address (RFC 4291, appendix A).
fn link_local(mac: [u8; 6]) -> IpAddr {
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    octets[8..11].copy_from_slice(&mac[..3]);
    octets[13..].copy_from_slice(&mac[3..]);
    octets[8] ^= 2;
    Ipv6Addr::from(octets).into()
}

/// The addresses that Docker has given a container on a network, each where it says who that is: on the network itself, and
/// wherever the host routes to it. Overlay networks it does not route to.
fn peer_keys(container: &Container, network: &Network) -> BTreeSet<PeerKey> {
    let mut endpoints = container.endpoints.iter();
    let Some(endpoint) = endpoints.find(|endpoint| endpoint.network_id == network.id) else {
        return BTreeSet::new();
    };
    let is_routed = network.bridge.is_some() || has_own_devices(network);
    let on_link = endpoint.mac.map(link_local);
    let mut keys = BTreeSet::new();
    for address in endpoint.addresses.iter().copied().chain(on_link) {
        let address = words(address);
        if matches!(kind(address), AddressKind::Nobody | AddressKind::Multicast) {
            continue;
        }
        let spaces = [Some(space(&network.id)), is_routed.then_some(ROUTED)];
        for space in spaces.into_iter().flatten() {
            if space != ROUTED || kind(address) != AddressKind::LinkLocal {
                keys.insert(PeerKey { space, address });
            }
        }
    }
    keys
}

impl Tracker {
    /// Where an interface is, as far as that is known.
    fn site_of(&self, interface: &Interface) -> Site {
        let key = interface.generation.key;
        let anywhere = Site {
            flags: SITE_COUNTED,
            ..Site::default()
        };
        let on = |network| site_on(network, SITE_COUNTED);
        let site = match &interface.role {
            Role::Pending { given_up: true, .. } | Role::Infrastructure { .. } => Site::default(),
            Role::Bridge { .. } => Site {
                flags: SITE_BRIDGE,
                ..Site::default()
            },
            _ if key.netns == GROUPS => anywhere,
            Role::Pending { .. } => {
                let network = self.network_of(key.netns, interface.bridge.as_deref());
                network.map_or(anywhere, on)
            }
            Role::Container(named) => {
                let id = &named.network.0;
                let unknown = Site {
                    space: space(id),
                    ..anywhere
                };
                self.networks.get(id).map_or(unknown, on)
            }
        };
        Site {
            number: number(interface.generation),
            ..site
        }
    }

    /// Has the kernel side know where an interface is, and have room for what it counts of it.
    pub(super) fn begin_site(&mut self, key: InterfaceKey) {
        if !self.kernel.limits.has_views() {
            return;
        }
        let Some(interface) = self.interfaces.get(&key) else {
            return;
        };
        let (slot, site) = (interface.slot(), self.site_of(interface));
        // A bridge has no second view.
        if site.flags & SITE_COUNTED != 0
            && let Err(error) = self.kernel.counters.prepare(slot)
        {
            *self.counts.map_update_errors.entry("views").or_default() += 1;
            tracing::warn!(slot, %error, "no memory for what is counted by scope and protocol");
        }
        let result = self.kernel.peers.set_site(slot, site);
        self.check_map("sites", result);
    }

    /// Has the kernel side forget who was at an interface that is gone: whoever gets its addresses is somebody else.
    pub(super) fn end_site(&mut self, generation: Generation) {
        let number = number(generation);
        self.flows.end(number, Instant::now());
        self.disown_group(generation.key);
        self.set_peers(number, BTreeSet::new());
        if let Some(group) = self.sites.senders.remove(&number) {
            let result = self.kernel.peers.set_sender(group, None);
            self.check_map("senders", result);
        }
        if self.kernel.limits.has_views() {
            let result = self.kernel.peers.set_site(generation.slot, Site::default());
            self.check_map("sites", result);
        }
    }

    /// Has the kernel side know a container's control group, whose packets other containers may be offered.
    pub(super) fn begin_sender(&mut self, generation: Generation, path: &Path) {
        if self.kernel.limits.pairs == 0 {
            return;
        }
        let Some(group) = self.group_id(path) else {
            return;
        };
        let level = path.components().count() as u32 - 1;
        let number = number(generation);
        self.sites.senders.insert(number, group);
        let result = self.kernel.peers.set_sender(group, Some((number, level)));
        self.check_map("senders", result);
    }

    /// Has the kernel side know the addresses of what counts for a container.
    pub(super) fn claim_peers(&mut self, key: InterfaceKey) {
        if !self.kernel.limits.has_views() {
            return;
        }
        let Some(interface) = self.interfaces.get(&key) else {
            return;
        };
        let Role::Container(named) = &interface.role else {
            return;
        };
        let network = self.networks.get(&named.network.0);
        let tracked = self.containers.get(&named.container);
        let keys = match (network, tracked) {
            (Some(network), Some(tracked)) if key.netns != GROUPS => peer_keys(&tracked.container, network),
            _ => BTreeSet::new(),
        };
        // A container that is ending has no addresses any more; its interface keeps them until it is gone.
        if !keys.is_empty() {
            let number = number(interface.generation);
            self.set_peers(number, keys);
        }
    }

    /// The same of all that counts for a container, of which Docker has told something.
    pub(super) fn settle_peers(&mut self, id: &ContainerId) {
        let Some(tracked) = self.containers.get(id) else {
            return;
        };
        let live = tracked
            .series
            .values()
            .flat_map(|series| series.live.iter().copied());
        for key in live.collect::<Vec<_>>() {
            self.claim_peers(key);
        }
    }

    /// Makes these the addresses that an interface, or the host, claims.
    fn set_peers(&mut self, number: u32, keys: BTreeSet<PeerKey>) {
        let before = self.sites.of.remove(&number).unwrap_or_default();
        let claims = &mut self.sites.claims;
        let new = keys.difference(&before);
        let mut changed: Vec<_> = new.map(|key| (*key, claims.add(*key, number))).collect();
        let gone = before.difference(&keys);
        changed.extend(gone.map(|key| (*key, claims.remove(*key, number))));
        if !keys.is_empty() {
            self.sites.of.insert(number, keys);
        }
        for (key, owner) in changed {
            let result = self.kernel.peers.set_peer(key, owner);
            self.check_map("peers", result);
        }
    }

    /// Looks at all of it, if something has changed that all of it depends on: networks, or the host's addresses.
    pub(super) fn settle_sites(&mut self) {
        if !std::mem::take(&mut self.sites.is_due) || !self.kernel.limits.has_views() {
            return;
        }
        self.claim_host();
        for key in self.interfaces.keys().copied().collect::<Vec<_>>() {
            self.begin_site(key);
            self.claim_peers(key);
        }
        if std::mem::take(&mut self.sites.is_first) {
            self.forget_former_peers();
        }
    }

    /// What the host's own addresses claim: each where it is routed to, and that of a bridge on its network.
    fn claim_host(&mut self) {
        let mut claims = BTreeSet::new();
        for (ifindex, addresses) in &self.sites.host {
            let bridge = self.bridges.get(ifindex);
            let network = bridge.and_then(|bridge| self.networks.of_bridge(&bridge.name));
            let space = network.map(|network| space(&network.id));
            for address in addresses.iter().map(|address| words(*address)) {
                let kind = kind(address);
                if kind == AddressKind::Nobody {
                    continue;
                }
                claims.extend(space.map(|space| PeerKey { space, address }));
                if kind != AddressKind::LinkLocal {
                    claims.insert(PeerKey {
                        space: ROUTED,
                        address,
                    });
                }
            }
        }
        self.set_peers(PEER_HOST, claims.into_iter().collect());
    }

    /// Has the kernel side forget whom an earlier process knew and nobody is any more, and know groups that were taken over.
    fn forget_former_peers(&mut self) {
        let known: Vec<_> = self.kernel.peers.known().collect();
        for (key, _number) in known {
            let owner = self.sites.claims.owner(key);
            let result = self.kernel.peers.set_peer(key, owner);
            self.check_map("peers", result);
        }
        let groups: Vec<(Generation, Arc<str>)> = self
            .interfaces
            .values()
            .filter(|interface| interface.generation.key.netns == GROUPS)
            .map(|interface| (interface.generation, Arc::clone(&interface.link.name)))
            .collect();
        for (generation, path) in groups {
            self.begin_sender(generation, Path::new(&*path));
        }
        for group in self.kernel.peers.senders() {
            if !self.sites.senders.values().any(|known| *known == group) {
                let result = self.kernel.peers.set_sender(group, None);
                self.check_map("senders", result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::fixture;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_link_local_address_is_what_the_kernel_makes_of_the_hardwares() {
        assert_eq!(
            link_local([0x02, 0x42, 0xac, 0x11, 0, 0x02]),
            address("fe80::42:acff:fe11:2")
        );
        assert_eq!(
            link_local([0x9e, 0x0b, 0x1c, 0x2d, 0x3e, 0x4f]),
            address("fe80::9c0b:1cff:fe2d:3e4f")
        );
    }

    #[test]
    fn networks_have_spaces_of_their_own() {
        assert_ne!(space("a"), space("b"));
        assert_eq!(space("a"), 0xaf63_dc4c_8601_ec8c, "the published test vector");
        assert_ne!(space(""), ROUTED);
    }

    #[test]
    fn addresses_stand_for_somebody_on_their_network_and_where_the_host_routes() {
        let mut container = fixture::container('a', "front", &["front"]);
        container.endpoints[0].mac = Some([2, 0, 0, 0, 0, 1]);
        container.endpoints[0].addresses = vec![address("172.18.0.2"), address("fd00::2")];
        let bridge = fixture::network("front", "bridge", Some("br-front"));
        let on_network = PeerKey {
            space: space("front"),
            address: words(address("172.18.0.2")),
        };
        let keys = peer_keys(&container, &bridge);
        assert!(keys.contains(&on_network));
        assert!(keys.contains(&PeerKey {
            space: ROUTED,
            ..on_network
        }));
        assert_eq!(
            keys.len(),
            5,
            "a link-local address says nothing elsewhere: {keys:?}"
        );
        let overlay = fixture::network("front", "overlay", None);
        assert_eq!(peer_keys(&container, &overlay).len(), 3);
        let other = fixture::network("back", "bridge", Some("br-back"));
        assert!(peer_keys(&container, &other).is_empty());
    }

    #[test]
    fn only_some_of_many_prefixes_are_looked_at() {
        let subnets: Vec<Subnet> = (0..9_u8)
            .map(|number| format!("10.{number}.0.0/16").parse().unwrap())
            .collect();
        let found = prefixes(&subnets);
        assert!(found[3].has(words(address("10.3.0.1"))));
        assert_eq!(prefixes(&subnets[..1])[1], Prefix::NONE);
        let six: Subnet = "fd00:7::/64".parse().unwrap();
        assert!(prefixes(&[six])[0].has(words(address("fd00:7::1"))));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/x", ""] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }
}
