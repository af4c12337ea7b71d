//! Containers and the totals that belong to them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use dtm_common::drops::DropTally;

use super::{Traffic, nameless::ORPHAN_PATIENCE};
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
    /// Indices of the interfaces that count for it now; two while one replaces another.
    pub(crate) live: BTreeSet<u32>,
}

/// A container as long as Docker knows it, and until its totals have lingered.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) container: Arc<Container>,
    /// dtm's own number for it on the kernel side; never used again.
    pub(crate) number: u32,
    pub(crate) series: BTreeMap<SeriesKey, Series>,
    /// Drops that were counted under keys that are gone.
    pub(crate) past_drops: Drops,
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
    by_id: HashMap<ContainerId, Tracked>,
    last_number: u32,
}

impl Tracked {
    fn new(container: Arc<Container>, number: u32) -> Self {
        Self {
            container,
            number,
            series: BTreeMap::new(),
            past_drops: BTreeMap::new(),
            aliases: BTreeSet::new(),
            netns: HashMap::new(),
            ended: None,
            destroyed: false,
        }
    }

    /// Whether it has a process, by Docker's word, or an interface.
    pub(crate) fn is_living(&self) -> bool {
        let has_process = matches!(
            self.container.state,
            ContainerState::Running | ContainerState::Paused | ContainerState::Restarting
        );
        (has_process && !self.destroyed) || self.series.values().any(|series| !series.live.is_empty())
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
    pub(crate) fn is_shown(&self, now: Instant, linger: std::time::Duration) -> bool {
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

    /// Takes in what Docker says of a container now.
    pub(crate) fn update(&mut self, container: Container, now: Instant) {
        let container = Arc::new(container);
        let tracked = self.by_id.entry(container.id.clone()).or_insert_with(|| {
            self.last_number += 1;
            Tracked::new(Arc::clone(&container), self.last_number)
        });
        tracked.container = container;
        tracked.destroyed = false;
        tracked.note_end(now);
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
        for tracked in self.by_id.values_mut() {
            tracked.destroyed = true;
        }
        for mut container in containers {
            if let Some(known) = self.by_id.get(&container.id) {
                // A list has no start times.
                container.started_at = container.started_at.or(known.container.started_at);
            }
            self.update(container, now);
        }
        for tracked in self.by_id.values_mut() {
            tracked.note_end(now);
        }
    }

    /// Takes out the containers that Docker has removed and whose totals have lingered. An interface of theirs may still
    /// wait for its name, however short the linger.
    pub(crate) fn expire(&mut self, now: Instant, linger: std::time::Duration) -> Vec<Tracked> {
        let is_over = |ended| now.duration_since(ended) >= ORPHAN_PATIENCE;
        let expired = |tracked: &Tracked| {
            tracked.destroyed && !tracked.is_shown(now, linger) && tracked.ended.is_some_and(is_over)
        };
        self.by_id
            .extract_if(|_id, tracked| expired(tracked))
            .map(|(_id, tracked)| tracked)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LINGER: Duration = Duration::from_mins(5);

    fn container(state: ContainerState) -> Container {
        Container {
            id: ContainerId::parse(&"a".repeat(64)).unwrap(),
            name: Arc::from("web"),
            image: Arc::from("image"),
            labels: BTreeMap::new(),
            network_mode: Arc::from("bridge"),
            state,
            started_at: None,
            endpoints: Vec::new(),
        }
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
        assert!(containers.expire(start + LINGER / 2, LINGER).is_empty());
        assert_eq!(containers.expire(start + LINGER, LINGER).len(), 1);
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
        assert!(containers.expire(start + LINGER * 2, LINGER).is_empty());
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
            containers.expire(start, LINGER).is_empty(),
            "an interface of its may still wait for its name"
        );
        assert!(ORPHAN_PATIENCE < LINGER);
        assert_eq!(
            containers.expire(start + ORPHAN_PATIENCE, LINGER).len(),
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
}
