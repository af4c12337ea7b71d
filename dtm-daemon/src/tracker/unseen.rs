//! Containers that run and of which dtm finds nothing: it is not shown everything of the host, or of another host.
//!
//! Every interface on a bridge is seen, but whose it is say the processes at its other end. Where those cannot be seen
//! there would be containers without numbers and without a word.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    Tracker,
    containers::Tracked,
    placing::{NO_GROUP, Place, place, uncovered},
    reading::Seen,
};
use crate::docker::ContainerId;

/// How long a container may be there before what belongs to it is missed: it has its name within milliseconds, on a host
/// that starts many within seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The reason of one that is on bridges by Docker's word, and on none by the kernel's.
const NO_INTERFACE: &str = "interface_not_found";

/// Those of which something is missing, by what, and since when.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    since: HashMap<ContainerId, (&'static str, Instant)>,
    /// What was said, once: there may be many.
    has_said: Vec<&'static str>,
}

impl Tracker {
    /// Notes what is missing, and says so once it has been for a while.
    pub(super) fn look_for_unseen(&mut self, now: Instant) {
        let before = std::mem::take(&mut self.unseen.since);
        if self.docker.up != Some(true) {
            return;
        }
        let missing = self.containers.iter().filter_map(|tracked| {
            let reason = self.is_missing(tracked)?;
            let id = &tracked.container.id;
            let known = before.get(id).filter(|(known, _since)| *known == reason);
            Some((id.clone(), *known.unwrap_or(&(reason, now))))
        });
        let missing: HashMap<_, _> = missing.collect();
        for (id, (reason, since)) in &missing {
            if now.duration_since(*since) < PATIENCE || self.unseen.has_said.contains(reason) {
                continue;
            }
            self.unseen.has_said.push(reason);
            let container = id.short();
            if *reason == NO_GROUP {
                tracing::warn!(
                    container,
                    "no control group of a container on the host's network is seen, its traffic is not counted: if dtm \
                     runs in a container, start it with --cgroupns host, or with --pid host and --privileged"
                );
            } else {
                tracing::warn!(
                    container,
                    "no interface of a running container is found, its traffic has no name: if dtm runs in a container, \
                     start it with --pid host, or mount the host's /proc and name it with --path.procfs"
                );
            }
        }
        self.unseen.since = missing;
    }

    fn is_missing(&self, tracked: &Tracked) -> Option<&'static str> {
        // Of most containers something is found, and there may be a thousand.
        if !tracked.has_process() || tracked.has_interface() {
            return None;
        }
        let find = |id: &ContainerId| self.containers.get(id).map(|tracked| &tracked.container);
        let place = place(&tracked.container, self.networks.by_id(), find)?;
        let seen = Seen {
            tracker: self,
            tracked,
        };
        match (&place, uncovered(&place, &seen)) {
            (Place::Group, reason) => reason.filter(|reason| *reason == NO_GROUP),
            // That is known and said.
            (_, Some(_)) | (Place::Under(_), None) => None,
            (Place::On(networks), None) => {
                let is_on_bridge = networks.iter().any(|network| network.bridge.is_some());
                is_on_bridge.then_some(NO_INTERFACE)
            }
        }
    }

    /// Why nothing is shown for a container on a bridge, where that has been so for a while.
    pub(super) fn unseen(&self, id: &ContainerId) -> Option<&'static str> {
        let (reason, since) = self.unseen.since.get(id)?;
        let is_sure = *reason == NO_INTERFACE && since.elapsed() >= PATIENCE;
        is_sure.then_some(NO_INTERFACE)
    }
}
