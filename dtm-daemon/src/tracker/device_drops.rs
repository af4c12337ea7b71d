//! What the devices of containers' interfaces have thrown away by their own counters: the host ends of pairs, which are in a
//! namespace that is watched.
//!
//! They are read when somebody wants to see them, and not again within a few seconds unless there is an interface that was
//! never looked at. The growth since the first look counts;
//! of what was born under dtm's eyes, all of it.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Tracker,
    interfaces::{Interface, OWN_NETNS, Role},
};
use crate::net::{DeviceDrops, device_drops};

/// How long a reading is good for.
const FRESH: Duration = Duration::from_secs(5);

/// The counters of a host end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceReading {
    /// At the first look.
    first: DeviceDrops,
    /// At the last one.
    last: DeviceDrops,
}

impl DeviceReading {
    /// What was thrown away since the first look, in the container's direction.
    pub(crate) fn grown(self) -> DeviceDrops {
        DeviceDrops {
            receive: self.last.transmit.saturating_sub(self.first.transmit),
            transmit: self.last.receive.saturating_sub(self.first.receive),
        }
    }
}

impl Tracker {
    /// Takes in what the devices have counted, unless that was done a moment ago.
    pub(super) fn read_devices(&mut self, now: Instant) {
        let before = self.devices_read;
        let is_fresh = before.is_some_and(|before| now.duration_since(before) < FRESH);
        let namespaces = &self.namespaces;
        let mut all = self.interfaces.values();
        let is_new = |interface: &Interface| {
            interface.device.is_none()
                && !matches!(interface.role, Role::Bridge { .. })
                && namespaces.contains_key(&interface.generation.key.netns)
        };
        if is_fresh && !all.any(is_new) {
            return;
        }
        self.devices_read = Some(now);
        let mut of_namespace = HashMap::new();
        for (netns, namespace) in &self.namespaces {
            let path = PathBuf::from(format!("/proc/self/task/{}/net/dev", namespace.thread));
            match device_drops(&path) {
                Ok(drops) => drop(of_namespace.insert(*netns, drops)),
                Err(error) => tracing::debug!(netns, %error, "cannot read the counters of devices"),
            }
        }
        let mut changed = Vec::new();
        for (key, interface) in self.interfaces.iter() {
            let drops = of_namespace.get(&key.netns);
            let Some(last) = drops.and_then(|drops| drops.get(&*interface.link.name)) else {
                continue;
            };
            if matches!(interface.role, Role::Bridge { .. }) {
                continue;
            }
            let is_born_here =
                key.netns == OWN_NETNS && before.is_some_and(|before| interface.since > before);
            let first = match interface.device {
                Some(known) => known.first,
                None if is_born_here => DeviceDrops::default(),
                None => *last,
            };
            let reading = DeviceReading { first, last: *last };
            if interface.device != Some(reading) {
                changed.push((*key, reading));
            }
        }
        for (key, reading) in changed {
            if let Some(interface) = self.interfaces.get_mut(&key) {
                interface.device = Some(reading);
            }
        }
    }
}
