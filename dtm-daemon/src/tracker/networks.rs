//! Docker's networks and the sums that belong to them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Infrastructure, NetworkSnapshot, Traffic};
use crate::docker::Network;

/// One of a network's sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What its containers moved.
    Containers,
    /// What passed its bridge.
    Bridge,
    /// What sandboxes of Docker's own moved.
    Infrastructure(Infrastructure),
}

/// The sums of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    containers: Traffic,
    /// Where it has, or had, a bridge that is counted.
    bridge: Option<Traffic>,
    infrastructure: BTreeMap<Infrastructure, Traffic>,
}

impl Sums {
    fn add(&mut self, part: Part, traffic: &Traffic) {
        *match part {
            Part::Containers => &mut self.containers,
            Part::Bridge => self.bridge.get_or_insert_default(),
            Part::Infrastructure(kind) => self.infrastructure.entry(kind).or_default(),
        } += traffic.totals();
    }

    fn add_all(&mut self, other: &Self) {
        let Self {
            containers,
            bridge,
            infrastructure,
        } = other;
        self.add(Part::Containers, containers);
        if let Some(traffic) = bridge {
            self.add(Part::Bridge, traffic);
        }
        for (kind, traffic) in infrastructure {
            self.add(Part::Infrastructure(*kind), traffic);
        }
    }
}

/// All networks, by id, and what was moved on those that are gone.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    by_id: HashMap<Arc<str>, Network>,
    /// What moved on them, living interfaces left out.
    past: HashMap<Arc<str>, Sums>,
    /// Networks Docker has removed, with their names, until their sums have lingered.
    removed: HashMap<Arc<str>, (Network, Instant)>,
    /// Those of which something has changed since this was last asked.
    changed: HashSet<Arc<str>>,
}

/// All that is kept of a network.
pub(crate) struct KeptNetwork {
    pub(crate) network: Option<Network>,
    pub(crate) past: Option<Sums>,
    /// When Docker removed it.
    pub(crate) removed: Option<Instant>,
}

impl Networks {
    /// All networks that can name an interface: those there are, then those that were there when it was.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Network> + Clone {
        let removed = self.removed.values().map(|(network, _since)| network);
        self.by_id.values().chain(removed)
    }

    /// The network with this id, if it is there or was when something on it was.
    pub(crate) fn get(&self, id: &str) -> Option<&Network> {
        let removed = || Some(&self.removed.get(id)?.0);
        self.by_id.get(id).or_else(removed)
    }

    /// The networks there are.
    pub(crate) fn by_id(&self) -> &HashMap<Arc<str>, Network> {
        &self.by_id
    }

    pub(crate) fn update(&mut self, network: Network) {
        self.removed.remove(&network.id);
        self.changed.insert(Arc::clone(&network.id));
        self.by_id.insert(Arc::clone(&network.id), network);
    }

    pub(crate) fn remove(&mut self, id: &str, now: Instant) {
        if let Some((id, network)) = self.by_id.remove_entry(id) {
            self.changed.insert(Arc::clone(&id));
            self.removed.insert(id, (network, now));
        }
    }

    /// Takes in the list of all networks there are.
    pub(crate) fn listed(&mut self, networks: Vec<Network>, now: Instant) {
        let gone: Vec<_> = self
            .by_id
            .keys()
            .filter(|id| networks.iter().all(|network| network.id != **id))
            .cloned()
            .collect();
        for id in gone {
            self.remove(&id, now);
        }
        for network in networks {
            self.update(network);
        }
    }

    /// The network whose bridge has this name.
    pub(crate) fn of_bridge(&self, bridge: &str) -> Option<&Network> {
        self.by_id
            .values()
            .find(|network| network.bridge.as_deref() == Some(bridge))
    }

    /// Adds what an interface that is gone moved.
    pub(crate) fn add_past(&mut self, id: &Arc<str>, traffic: &Traffic, part: Part) {
        self.changed.insert(Arc::clone(id));
        self.past.entry(Arc::clone(id)).or_default().add(part, traffic);
    }

    /// Whether Docker has removed the network, and its sums have lingered.
    pub(crate) fn has_lingered(&self, id: &str, now: Instant, linger: Duration) -> bool {
        let removed = self.removed.get(id);
        removed.is_some_and(|(_network, since)| now.duration_since(*since) >= linger)
    }

    /// Forgets removed networks whose sums have lingered, but none that containers are still on: those in `in_use`. One
    /// that was made again under its name inherits the sums: its series must not step back.
    pub(crate) fn expire(&mut self, now: Instant, linger: Duration, in_use: &HashSet<Arc<str>>) {
        let Self {
            by_id,
            past,
            removed,
            changed,
        } = self;
        for (_id, (_network, since)) in removed.iter_mut().filter(|(id, _)| in_use.contains(*id)) {
            *since = now;
        }
        for (id, (network, _since)) in
            removed.extract_if(|_id, (_network, since)| now.duration_since(*since) >= linger)
        {
            changed.insert(Arc::clone(&id));
            let Some(sums) = past.remove(&id) else {
                continue;
            };
            let is_heir = |other: &&Network| other.name == network.name && other.driver == network.driver;
            if let Some(heir) = by_id.values().find(is_heir) {
                changed.insert(Arc::clone(&heir.id));
                past.entry(Arc::clone(&heir.id)).or_default().add_all(&sums);
            }
        }
    }

    /// Those of which something has changed since the last time.
    pub(crate) fn take_changed(&mut self) -> HashSet<Arc<str>> {
        std::mem::take(&mut self.changed)
    }

    /// Whether there is any such.
    pub(crate) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What is kept of a network; none where that is nothing any more.
    pub(crate) fn kept(&self, id: &str) -> Option<KeptNetwork> {
        let (gone, removed) = self.removed.get(id).cloned().unzip();
        let kept = KeptNetwork {
            network: self.by_id.get(id).cloned().or(gone),
            past: self.past.get(id).cloned(),
            removed,
        };
        (kept.network.is_some() || kept.past.is_some()).then_some(kept)
    }

    /// Takes in what was kept of a network.
    pub(crate) fn restore(&mut self, id: Arc<str>, kept: KeptNetwork) {
        let KeptNetwork {
            network,
            past,
            removed,
        } = kept;
        self.changed.insert(Arc::clone(&id));
        self.past.extend(past.map(|past| (Arc::clone(&id), past)));
        match (network, removed) {
            (Some(network), Some(since)) => drop(self.removed.insert(id, (network, since))),
            (Some(network), None) => drop(self.by_id.insert(id, network)),
            (None, _) => {}
        }
    }

    /// The sums by name and driver: a network made again under its name goes on in the same series.
    ///
    /// `live` are the interfaces that count now: (network's id, traffic, in which of its sums).
    pub(crate) fn snapshot(&self, live: &[(Arc<str>, Traffic, Part)]) -> Vec<NetworkSnapshot> {
        let mut all: BTreeMap<(Arc<str>, Arc<str>), Sums> = BTreeMap::new();
        let mut of = HashMap::new();
        for network in self.known() {
            let label = (Arc::clone(&network.name), Arc::clone(&network.driver));
            of.insert(Arc::clone(&network.id), label.clone());
            let sums = all.entry(label).or_default();
            for kind in Infrastructure::ALL {
                if network.bridge.is_some() && kind.home() == Some(&*network.name) {
                    sums.add(Part::Infrastructure(kind), &Traffic::default());
                }
            }
            if let Some(past) = self.past.get(&network.id) {
                sums.add_all(past);
            }
        }
        for (id, traffic, part) in live {
            if let Some(sums) = of.get(id).and_then(|label| all.get_mut(label)) {
                sums.add(*part, traffic);
            }
        }
        let named = |((name, driver), sums): ((Arc<str>, Arc<str>), Sums)| {
            let Sums {
                containers,
                bridge,
                infrastructure,
            } = sums;
            NetworkSnapshot {
                name,
                driver,
                containers,
                bridge,
                infrastructure,
            }
        };
        all.into_iter().map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use dtm_common::traffic::Tally;

    use super::*;

    const LINGER: Duration = Duration::from_mins(5);

    fn network(id: &str) -> Network {
        Network {
            id: Arc::from(id),
            name: Arc::from("front"),
            driver: Arc::from("bridge"),
            bridge: Some(Arc::from(format!("br-{id}"))),
            subnets: Vec::new(),
        }
    }

    fn received(bytes: u64) -> Traffic {
        Traffic {
            receive: Tally {
                bytes,
                packets: 1,
                wire_bytes: bytes,
            },
            ..Traffic::default()
        }
    }

    #[test]
    fn what_is_gone_stays_in_the_sum() {
        let mut networks = Networks::default();
        networks.update(network("one"));
        networks.add_past(&Arc::from("one"), &received(5), Part::Containers);
        let [sum] = networks
            .snapshot(&[(Arc::from("one"), received(7), Part::Containers)])
            .try_into()
            .unwrap();
        assert_eq!(sum.containers.receive.bytes, 12);
        assert!(sum.bridge.is_none());
    }

    #[test]
    fn a_network_made_again_goes_on_in_the_same_series() {
        let (mut networks, start) = (Networks::default(), Instant::now());
        networks.update(network("one"));
        networks.add_past(&Arc::from("one"), &received(5), Part::Bridge);
        networks.listed(vec![network("two")], start);
        let [sum] = networks
            .snapshot(&[(Arc::from("two"), received(7), Part::Bridge)])
            .try_into()
            .unwrap();
        assert_eq!(sum.bridge.unwrap().receive.bytes, 12);
        networks.expire(start + LINGER, LINGER, &HashSet::new());
        let [sum] = networks
            .snapshot(&[(Arc::from("two"), received(7), Part::Bridge)])
            .try_into()
            .unwrap();
        assert_eq!(
            sum.bridge.unwrap().receive.bytes,
            12,
            "the old sum is inherited, not lost"
        );
    }

    #[test]
    fn a_removed_network_stays_as_long_as_something_is_on_it_and_lingers_then() {
        let (mut networks, start) = (Networks::default(), Instant::now());
        networks.update(network("one"));
        networks.remove("one", start);
        let on_it = HashSet::from([Arc::from("one")]);
        networks.expire(start + LINGER, LINGER, &on_it);
        let [sum] = networks
            .snapshot(&[(Arc::from("one"), received(7), Part::Containers)])
            .try_into()
            .unwrap();
        assert_eq!(sum.containers.receive.bytes, 7);
        networks.add_past(&Arc::from("one"), &received(7), Part::Containers);
        networks.expire(start + LINGER + LINGER / 2, LINGER, &HashSet::new());
        assert_eq!(networks.snapshot(&[])[0].containers.receive.bytes, 7);
        networks.expire(start + LINGER + LINGER, LINGER, &HashSet::new());
        assert!(networks.snapshot(&[]).is_empty());
    }

    #[test]
    fn a_network_that_was_there_names_what_was_on_it_after_those_that_are() {
        let (mut networks, start) = (Networks::default(), Instant::now());
        networks.update(network("one"));
        networks.remove("one", start);
        networks.update(network("two"));
        let known: Vec<_> = networks.known().map(|network| &*network.id).collect();
        assert_eq!(known, ["two", "one"]);
    }
}
