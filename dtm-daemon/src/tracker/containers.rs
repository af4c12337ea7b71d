//! Containers and the totals that belong to them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{
    drops::{DropTally, OWNER_PENDING},
    index::InterfaceKey,
    views::ViewCounters,
};

use super::{Traffic, nameless::ORPHAN_PATIENCE, noted::Noted, tcp::Sockets, traffic::add_views};
use crate::docker::{Container, ContainerId, ContainerState};

/// What a series of a container is known by besides its id: network and interface.
pub(crate) type SeriesKey = (Arc<str>, Arc<str>);

/// Drops by (direction, reason) as the kernel side numbers them.
pub(crate) type Drops = BTreeMap<(u32, u32), DropTally>;

/// One (network, interface) of a container over all generations of the interface.
#[derive(Debug, Default)]
pub(crate) struct Series {
    /// What generations that are gone moved.
    pub(crate) past: Traffic,
    /// What counts for it now; two while one replaces another.
    pub(crate) live: BTreeSet<InterfaceKey>,
    /// When it last had something added that was gone.
    added: Option<Instant>,
}

impl Series {
    /// Adds what a generation that is gone moved.
    pub(crate) fn add_past(&mut self, traffic: &Traffic, now: Instant) {
        self.past += *traffic;
        self.added = Some(now);
    }

    /// One that moved this before, and had something added then.
    pub(crate) fn restored(past: &Traffic, added: Option<Instant>) -> Self {
        Self {
            past: *past,
            live: BTreeSet::new(),
            added,
        }
    }

    /// When it last had something added that was gone.
    pub(crate) fn added(&self) -> Option<Instant> {
        self.added
    }

    /// When it was last of use; `now` while it has an interface.
    fn last_used(&self, now: Instant) -> Option<Instant> {
        if self.live.is_empty() {
            self.added
        } else {
            Some(now)
        }
    }
}

/// A container as long as Docker knows it, and until its totals have lingered.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) container: Arc<Container>,
    /// dtm's own number for it on the kernel side; not used again before some two thousand million others were.
    pub(crate) number: u32,
    pub(crate) series: BTreeMap<SeriesKey, Series>,
    /// Drops that were counted under keys that are gone.
    pub(crate) past_drops: Drops,
    /// The second view of what series moved that are forgotten: it has no network's name.
    pub(crate) past_views: ViewCounters,
    /// What is known of its connections.
    pub(crate) sockets: Sockets,
    /// Further owners its drops are counted under: its interfaces' slots from before they had its name.
    pub(crate) aliases: BTreeSet<u32>,
    /// Inode of its namespace, and how many interfaces are known to be in it.
    pub(crate) netns: HashMap<u32, u32>,
    /// Since when it has neither a process nor an interface.
    pub(crate) ended: Option<Instant>,
    /// Docker has removed it: it will not start again.
    pub(crate) destroyed: bool,
}

/// All containers, by id.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    by_id: Noted<ContainerId, Tracked>,
    last_number: u32,
}

impl Tracked {
    pub(crate) fn new(container: Arc<Container>, number: u32) -> Self {
        Self {
            container,
            number,
            series: BTreeMap::new(),
            past_drops: BTreeMap::new(),
            past_views: ViewCounters::default(),
            sockets: Sockets::default(),
            aliases: BTreeSet::new(),
            netns: HashMap::new(),
            ended: None,
            destroyed: false,
        }
    }

    /// Whether it has a process, by Docker's word.
    pub(crate) fn has_process(&self) -> bool {
        self.container.has_process() && !self.destroyed
    }

    /// Whether it has a process, by Docker's word, or an interface.
    pub(crate) fn is_living(&self) -> bool {
        self.has_process() || self.has_interface()
    }

    /// Whether something counts for it on the network with this name now.
    pub(crate) fn is_counted_on(&self, network: &str) -> bool {
        let mut series = self.series.iter();
        series.any(|((name, _interface), series)| &**name == network && !series.live.is_empty())
    }

    /// Notes that an interface of its in this namespace is gone; whether it was the last one there.
    pub(crate) fn leaves(&mut self, netns_inode: u32) -> bool {
        let interfaces = self.netns.entry(netns_inode).or_default();
        *interfaces = interfaces.saturating_sub(1);
        let is_last = *interfaces == 0;
        if is_last {
            self.netns.remove(&netns_inode);
        }
        is_last
    }

    /// Whether an interface counts for it now.
    pub(crate) fn has_interface(&self) -> bool {
        self.series.values().any(|series| !series.live.is_empty())
    }

    /// Forgets series that have lingered and that nothing will go on with: their network is gone, or another interface
    /// has been on it since. Debian's 20.10 gives each interface of a container a name of its own: one that joins and
    /// leaves networks would otherwise have ever more series.
    fn prune(&mut self, now: Instant, linger: Duration, exists: &impl Fn(&str) -> bool) {
        for key in self.to_prune(now, linger, exists) {
            if let Some(series) = self.series.remove(&key) {
                add_views(&mut self.past_views, &series.past.views);
            }
        }
    }

    fn has_to_prune(&self, now: Instant, linger: Duration, exists: &impl Fn(&str) -> bool) -> bool {
        !self.to_prune(now, linger, exists).is_empty()
    }

    /// The series to forget.
    fn to_prune(&self, now: Instant, linger: Duration, exists: &impl Fn(&str) -> bool) -> Vec<SeriesKey> {
        if self.series.values().all(|series| !series.live.is_empty()) {
            return Vec::new();
        }
        let mut last_used: BTreeMap<Arc<str>, Option<Instant>> = BTreeMap::new();
        for ((network, _interface), series) in &self.series {
            let last = last_used.entry(Arc::clone(network)).or_default();
            *last = series.last_used(now).max(*last);
        }
        let is_over = |((network, _interface), series): &(&SeriesKey, &Series)| {
            let last = series.last_used(now);
            let lingers = last.is_some_and(|last| now.duration_since(last) < linger);
            !(lingers || exists(network) && last_used.get(network) == Some(&last))
        };
        let over = self.series.iter().filter(is_over);
        over.map(|(key, _series)| key.clone()).collect()
    }

    /// Notes since when it is not living; forgets it when it lives again.
    pub(crate) fn note_end(&mut self, now: Instant) {
        self.ended = if self.is_living() {
            None
        } else {
            Some(self.ended.unwrap_or(now))
        };
    }

    /// Whether its totals are shown: it lives, or lived here and has not lingered long enough.
    pub(crate) fn is_shown(&self, now: Instant, linger: Duration) -> bool {
        match self.ended {
            None => true,
            Some(ended) => self.has_totals() && now.duration_since(ended) < linger,
        }
    }

    fn has_totals(&self) -> bool {
        !self.series.is_empty() || !self.past_drops.is_empty() || !self.aliases.is_empty()
    }
}

impl Containers {
    pub(crate) fn get(&self, id: &ContainerId) -> Option<&Tracked> {
        self.by_id.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &ContainerId) -> Option<&mut Tracked> {
        self.by_id.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tracked> {
        self.by_id.values()
    }

    /// Takes in a container as an earlier process knew it.
    pub(crate) fn restore(&mut self, tracked: Tracked) {
        self.by_id.insert(tracked.container.id.clone(), tracked);
    }

    /// The number that was last given.
    pub(crate) fn last_number(&self) -> u32 {
        self.last_number
    }

    /// Goes on giving numbers after this one.
    pub(crate) fn restore_last_number(&mut self, number: u32) {
        self.last_number = number;
    }

    /// Gives back room of those that are gone.
    pub(crate) fn shrink(&mut self) {
        self.by_id.shrink();
    }

    /// Those that may have changed since the last time.
    pub(crate) fn take_changed(&mut self) -> HashSet<ContainerId> {
        self.by_id.take_changed()
    }

    /// Whether there is any such.
    pub(crate) fn is_changed(&self) -> bool {
        self.by_id.is_changed()
    }

    /// Takes in what Docker says of a container now.
    pub(crate) fn update(&mut self, container: Container, now: Instant) {
        let container = Arc::new(container);
        if !self.by_id.contains_key(&container.id) {
            self.last_number = self.next_number();
        }
        let number = self.last_number;
        let new = || Tracked::new(Arc::clone(&container), number);
        let tracked = self.by_id.get_or_insert_with(container.id.clone(), new);
        tracked.container = container;
        tracked.destroyed = false;
        tracked.note_end(now);
    }

    /// A number no container has. They are used in turn, so that what the kernel side still counts under one in the
    /// very moment of its end is not another's.
    fn next_number(&self) -> u32 {
        let mut number = self.last_number;
        loop {
            // The highest bit is for what has no name, 0 for nobody.
            number = number % (OWNER_PENDING - 1) + 1;
            if self.by_id.values().all(|tracked| tracked.number != number) {
                return number;
            }
        }
    }

    /// Takes in that a container's process ended.
    pub(crate) fn died(&mut self, id: &ContainerId, now: Instant) {
        if let Some(tracked) = self.by_id.get_mut(id) {
            Arc::make_mut(&mut tracked.container).state = ContainerState::Exited;
            tracked.note_end(now);
        }
    }

    /// Takes in that Docker has removed a container.
    pub(crate) fn destroyed(&mut self, id: &ContainerId, now: Instant) {
        if let Some(tracked) = self.by_id.get_mut(id) {
            tracked.destroyed = true;
            tracked.note_end(now);
        }
    }

    /// Takes in the list of all containers there are.
    pub(crate) fn listed(&mut self, containers: Vec<Container>, now: Instant) {
        let all: Vec<_> = self.by_id.keys().cloned().collect();
        let there: HashSet<_> = containers.iter().map(|container| container.id.clone()).collect();
        for mut container in containers {
            if let Some(known) = self.by_id.get(&container.id) {
                // A list has no start times.
                container.started_at = container.started_at.or(known.container.started_at);
            }
            self.update(container, now);
        }
        for id in all.iter().filter(|id| !there.contains(id)) {
            self.destroyed(id, now);
        }
    }

    /// Takes out the containers that Docker has removed and whose totals have lingered, and of the others the series
    /// that nothing will go on with; `exists` says whether there is a network of that name. An interface of theirs may
    /// still wait for its name, however short the linger.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        linger: Duration,
        exists: impl Fn(&str) -> bool,
    ) -> Vec<Tracked> {
        let is_due = |tracked: &&Tracked| !tracked.destroyed && tracked.has_to_prune(now, linger, &exists);
        let due = self.by_id.values().filter(is_due);
        for id in due
            .map(|tracked| tracked.container.id.clone())
            .collect::<Vec<_>>()
        {
            if let Some(tracked) = self.by_id.get_mut(&id) {
                tracked.prune(now, linger, &exists);
            }
        }
        let is_over = |ended| now.duration_since(ended) >= ORPHAN_PATIENCE;
        let expired = |tracked: &Tracked| {
            tracked.destroyed && !tracked.is_shown(now, linger) && tracked.ended.is_some_and(is_over)
        };
        let expired = self.by_id.take_if(|_id, tracked| expired(tracked));
        expired.into_iter().map(|(_id, tracked)| tracked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::fixture;

    const LINGER: Duration = Duration::from_mins(5);

    fn container(state: ContainerState) -> Container {
        Container {
            state,
            ..fixture::container('a', "bridge", &[])
        }
    }

    /// Of a host on which every network exists.
    fn expire(containers: &mut Containers, now: Instant) -> Vec<Tracked> {
        containers.expire(now, LINGER, |_network| true)
    }

    fn with_series(containers: &mut Containers, id: &ContainerId) {
        let tracked = containers.get_mut(id).unwrap();
        tracked
            .series
            .insert((Arc::from("front"), Arc::from("eth0")), Series::default());
    }

    #[test]
    fn totals_linger_after_the_end_and_then_go() {
        let (mut containers, start) = (Containers::default(), Instant::now());
        let running = container(ContainerState::Running);
        let id = running.id.clone();
        containers.update(running, start);
        with_series(&mut containers, &id);
        containers.died(&id, start);
        containers.destroyed(&id, start);
        assert!(containers.get(&id).unwrap().is_shown(start + LINGER / 2, LINGER));
        assert!(expire(&mut containers, start + LINGER / 2).is_empty());
        assert_eq!(expire(&mut containers, start + LINGER).len(), 1);
        assert!(containers.get(&id).is_none());
    }

    #[test]
    fn a_stopped_container_is_kept_for_its_next_start_but_not_shown_for_ever() {
        let (mut containers, start) = (Containers::default(), Instant::now());
        let running = container(ContainerState::Running);
        let id = running.id.clone();
        containers.update(running, start);
        with_series(&mut containers, &id);
        containers.died(&id, start);
        assert!(expire(&mut containers, start + LINGER * 2).is_empty());
        assert!(!containers.get(&id).unwrap().is_shown(start + LINGER * 2, LINGER));
        containers.update(container(ContainerState::Running), start + LINGER * 2);
        assert!(containers.get(&id).unwrap().is_shown(start + LINGER * 2, LINGER));
        assert_eq!(containers.get(&id).unwrap().series.len(), 1);
    }

    #[test]
    fn a_container_missing_from_the_list_was_destroyed() {
        let (mut containers, start) = (Containers::default(), Instant::now());
        containers.update(container(ContainerState::Running), start);
        containers.listed(Vec::new(), start);
        assert!(
            expire(&mut containers, start).is_empty(),
            "an interface of its may still wait for its name"
        );
        assert!(ORPHAN_PATIENCE < LINGER);
        assert_eq!(
            expire(&mut containers, start + ORPHAN_PATIENCE).len(),
            1,
            "nothing of it has to linger"
        );
    }

    #[test]
    fn a_list_does_not_forget_when_a_container_started() {
        let (mut containers, start) = (Containers::default(), Instant::now());
        let known = Container {
            started_at: Some(5.0),
            ..container(ContainerState::Running)
        };
        let id = known.id.clone();
        containers.update(known, start);
        containers.listed(vec![container(ContainerState::Running)], start);
        assert_eq!(containers.get(&id).unwrap().container.started_at, Some(5.0));
    }

    fn add_past(containers: &mut Containers, id: &ContainerId, key: (&str, &str), now: Instant) {
        let tracked = containers.get_mut(id).unwrap();
        let series = tracked.series.entry((Arc::from(key.0), Arc::from(key.1)));
        series.or_default().add_past(&Traffic::default(), now);
    }

    fn interfaces(containers: &Containers, id: &ContainerId) -> Vec<String> {
        let series = containers.get(id).unwrap().series.keys();
        series
            .map(|(_network, interface)| interface.to_string())
            .collect()
    }

    #[test]
    fn of_one_network_only_the_last_series_waits_for_the_container_to_come_back() {
        let (mut containers, start) = (Containers::default(), Instant::now());
        let running = container(ContainerState::Running);
        let id = running.id.clone();
        containers.update(running, start);
        let second = Duration::from_secs(1);
        add_past(&mut containers, &id, ("front", "eth0"), start);
        add_past(&mut containers, &id, ("front", "eth1"), start + second);
        add_past(&mut containers, &id, ("back", "eth2"), start);
        expire(&mut containers, start + LINGER / 2);
        assert_eq!(
            interfaces(&containers, &id),
            ["eth2", "eth0", "eth1"],
            "they linger"
        );
        expire(&mut containers, start + LINGER + second);
        assert_eq!(interfaces(&containers, &id), ["eth2", "eth1"]);
        let tracked = containers.get_mut(&id).unwrap();
        let living = tracked.series.entry((Arc::from("front"), Arc::from("eth3")));
        living
            .or_default()
            .live
            .insert(InterfaceKey { netns: 0, ifindex: 7 });
        expire(&mut containers, start + LINGER * 2);
        assert_eq!(interfaces(&containers, &id), ["eth2", "eth3"]);
    }

    #[test]
    fn a_series_of_a_living_container_goes_with_its_network() {
        let (mut containers, start) = (Containers::default(), Instant::now());
        let running = container(ContainerState::Running);
        let id = running.id.clone();
        containers.update(running, start);
        add_past(&mut containers, &id, ("front", "eth0"), start);
        add_past(&mut containers, &id, ("passing", "eth1"), start);
        let exists = |network: &str| network == "front";
        containers.expire(start + LINGER / 2, LINGER, exists);
        assert_eq!(interfaces(&containers, &id), ["eth0", "eth1"], "both linger");
        containers.expire(start + LINGER, LINGER, exists);
        assert_eq!(interfaces(&containers, &id), ["eth0"]);
    }

    #[test]
    fn numbers_start_again_and_leave_out_those_in_use() {
        let (mut containers, start) = (Containers::default(), Instant::now());
        let number_of = |containers: &mut Containers, digit: &str| {
            let id = ContainerId::parse(&digit.repeat(64)).unwrap();
            let container = Container {
                id: id.clone(),
                ..container(ContainerState::Running)
            };
            containers.update(container, start);
            containers.get(&id).unwrap().number
        };
        assert_eq!(number_of(&mut containers, "a"), 1);
        containers.last_number = OWNER_PENDING - 2;
        assert_eq!(number_of(&mut containers, "b"), OWNER_PENDING - 1);
        assert_eq!(
            number_of(&mut containers, "c"),
            2,
            "1 is in use, 0 and the highest bit are not containers"
        );
    }
}
