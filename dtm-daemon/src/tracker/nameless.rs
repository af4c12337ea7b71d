//! What nobody names: interfaces that are gone, and those that live without anybody's knowing whose they are.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{drops::OWNER_PENDING, index::InterfaceKey};

use super::{
    Tracker, Traffic,
    attaching::Generation,
    interfaces::{GROUPS, Interface, Named, Role},
    naming::Identity,
    networks::Part,
    sites,
};
use crate::net::Link;

/// How long an interface that is gone waits for a name before its traffic belongs to nobody. Docker's events come
/// within milliseconds; while it does not answer at all, nothing is given up.
pub(super) const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// How many interfaces may wait like that; a Docker that never answers must not make dtm grow.
const ORPHANS_LIMIT: usize = 1024;

/// How long an interface that is there may go without a name before what it moves is shown as nobody's: as long as
/// its other end is looked for without a pause.
const NAMELESS_AFTER: Duration = Duration::from_secs(20);

/// An interface that was gone before it had a name.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) link: Link,
    pub(super) bridge: Option<Arc<str>>,
    /// Kept: drops may be counted under it.
    pub(super) slot: u32,
    pub(super) identity: Option<Identity>,
    pub(super) traffic: Traffic,
    pub(super) since: Instant,
    pub(super) generation: Generation,
}

/// Whether what waits for a name since `since` has waited long enough. Only while Docker answers can a name come.
fn has_waited(now: Instant, since: Instant, answers_since: Option<Instant>, patience: Duration) -> bool {
    answers_since.is_some_and(|answers| now.duration_since(since.max(answers)) >= patience)
}

impl Interface {
    /// Whether it lives, and what it moves is nobody's.
    fn is_given_up(&self) -> bool {
        matches!(self.role, Role::Pending { given_up: true, .. })
    }
}

impl Tracker {
    /// Puts the totals of an interface that was gone before it had a name where they belong.
    pub(super) fn bury(&mut self, orphan: &Orphan, named: &Named) {
        let now = Instant::now();
        tracing::debug!(container = %named.container, host_end = &*orphan.link.name, "named after its end");
        self.networks
            .add_past(&named.network.0, &orphan.traffic, Part::Containers);
        if let Some(tracked) = self.containers.get_mut(&named.container) {
            let series = tracked.series.entry(named.series_key()).or_default();
            series.add_past(&orphan.traffic, now);
            tracked.aliases.insert(OWNER_PENDING | orphan.slot);
            let number = sites::number(orphan.generation);
            self.flows.name(number, &tracked.container.name);
            self.flows.end(number, now);
        }
        self.end_slot(orphan.slot, Some(named.container.clone()), now);
    }

    /// Gives up on interfaces that are gone and that nobody will name any more.
    pub(super) fn give_up_orphans(&mut self, now: Instant) {
        let mut too_many = self.orphans.len().saturating_sub(ORPHANS_LIMIT);
        self.unrecorded.rest |= !self.orphans.is_empty();
        for orphan in std::mem::take(&mut self.orphans) {
            let expired = has_waited(now, orphan.since, self.docker.since, ORPHAN_PATIENCE);
            if !expired && too_many == 0 {
                self.orphans.push(orphan);
                continue;
            }
            too_many = too_many.saturating_sub(1);
            if orphan.generation.key.netns != GROUPS {
                self.unattributed += orphan.traffic;
            }
            self.end_slot(orphan.slot, None, now);
        }
    }

    /// From now on shows as nobody's what interfaces move that live, and that nobody has named for long.
    pub(super) fn give_up_nameless(&mut self, now: Instant) {
        let is_due = |interface: &&Interface| {
            // What a group has counted may be another interface's as well.
            matches!(interface.role, Role::Pending { given_up: false, .. })
                && interface.generation.key.netns != GROUPS
                && has_waited(now, interface.since, self.docker.since, NAMELESS_AFTER)
        };
        let due = self.interfaces.values().filter(is_due);
        for key in due.map(|interface| interface.generation.key).collect::<Vec<_>>() {
            if let Some(interface) = self.interfaces.get_mut(&key)
                && let Role::Pending { given_up, .. } = &mut interface.role
            {
                *given_up = true;
                self.sites.reconsider();
                tracing::info!(
                    interface = &*interface.link.name,
                    bridge = interface.bridge.as_deref(),
                    "nobody knows whose this is, its traffic is shown as unattributed"
                );
            }
        }
    }

    /// What was shown as nobody's of a living interface stays nobody's: it gets a name after all, or ends. Its
    /// container has what comes from now on.
    pub(super) fn settle_given_up(&mut self, interface: &mut Interface) {
        if !interface.is_given_up() {
            return;
        }
        let counted = interface.counted(&self.kernel.counters, self.former.as_ref());
        self.unattributed += interface.moved(&counted);
        // At once: what is dropped from now on may be somebody's.
        for drops in self.fold_drops(&[interface.pending_owner()].into()).values() {
            self.forget_drops(drops, true);
        }
        // What is counted under the same key from now on is not among those.
        let owner = interface.pending_owner();
        let folded: Vec<_> = self
            .unrecorded
            .folded
            .extract_if(|key| key.owner == owner)
            .collect();
        self.remove_drops(&folded);
        interface.base = counted;
        if let Role::Pending { given_up, .. } = &mut interface.role {
            *given_up = false;
        }
    }

    /// What was moved for nobody, by interfaces that are gone and by those that live; `moved` is what these say.
    pub(super) fn nobodys(&self, moved: &HashMap<InterfaceKey, Traffic>) -> Traffic {
        let living = self
            .interfaces
            .iter()
            .filter(|(_key, interface)| interface.is_given_up());
        living
            .filter_map(|(key, _interface)| moved.get(key))
            .fold(self.unattributed, |mut sum, traffic| {
                sum += *traffic;
                sum
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_begins_when_docker_answers() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let waited = |answers_since, seconds| {
            has_waited(start + second * seconds, start, answers_since, ORPHAN_PATIENCE)
        };
        assert!(!waited(None, 3600), "no name can come while nobody answers");
        assert!(!waited(Some(start), 9));
        assert!(waited(Some(start), 10));
        assert!(
            !waited(Some(start + second * 60), 69),
            "names of what ended in the dark are on their way"
        );
        assert!(waited(Some(start + second * 60), 70));
    }
}
