//! Whose the drops are that the kernel side has counted.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use dtm_common::drops::{DROP_RECEIVE, DROP_TRANSMIT, DropKey, DropTally, OWNER_PENDING};

use super::{
    Tracker,
    containers::{Drops, Tracked},
};
use crate::docker::ContainerId;

/// A slot whose interface is gone. It is given back when the drops that were counted under it before its interface had
/// a name are taken out of the kernel's map, for many slots at once: that is a pass over the whole map.
#[derive(Debug)]
pub(super) struct EndedSlot {
    pub(super) slot: u32,
    /// Whose those drops are; none for nobody's. A container's aliases have the slot until then.
    pub(super) of: Option<ContainerId>,
    pub(super) since: Instant,
}

impl Tracked {
    /// Adds drops whose keys are gone.
    pub(super) fn add_past_drops(&mut self, drops: Drops) {
        for (key, tally) in drops {
            add(self.past_drops.entry(key).or_default(), tally);
        }
    }
}

impl Tracker {
    /// Lets a slot go whose interface is gone; `of` is whose its drops are.
    pub(super) fn end_slot(&mut self, slot: u32, of: Option<ContainerId>, since: Instant) {
        self.ended_slots.push(EndedSlot { slot, of, since });
        self.unrecorded.rest = true;
    }

    /// Gives back the slots that have ended since the last time. Drops of containers that nothing stands for any more
    /// need not wait in the kernel's map for the end of their linger either.
    pub(super) fn fold_ended_slots(&mut self) {
        let ended = std::mem::take(&mut self.ended_slots);
        if ended.is_empty() {
            return;
        }
        self.unrecorded.rest = true;
        let of = |ended: &EndedSlot| self.containers.get(ended.of.as_ref()?);
        let numbers = ended
            .iter()
            .filter_map(of)
            .filter(|tracked| !tracked.has_interface())
            .map(|tracked| tracked.number);
        let slots = ended.iter().map(|ended| OWNER_PENDING | ended.slot);
        let mut folded = self.fold_drops(&slots.chain(numbers).collect());
        for EndedSlot { slot, of, since } in ended {
            let owner = OWNER_PENDING | slot;
            let drops = folded.remove(&owner).unwrap_or_default();
            match of.and_then(|id| self.containers.get_mut(&id)) {
                Some(tracked) => {
                    tracked.aliases.remove(&owner);
                    tracked.add_past_drops(drops);
                    tracked.add_past_drops(folded.remove(&tracked.number).unwrap_or_default());
                }
                None => self.forget_drops(&drops, true),
            }
            self.release(slot, since);
        }
    }

    /// Takes the drops of `owners` out of the kernel's map: nothing counts under them any more. They are removed there when
    /// the journal has them.
    pub(super) fn fold_drops(&mut self, owners: &HashSet<u32>) -> HashMap<u32, Drops> {
        let mut folded = HashMap::<u32, Drops>::new();
        let Some(map) = &self.kernel.drops else {
            return folded;
        };
        let entries = match map.read() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "cannot read the map of drops");
                return folded;
            }
        };
        for (key, tally) in entries
            .into_iter()
            .filter(|(key, _tally)| owners.contains(&key.owner))
        {
            if self.unrecorded.folded.insert(key) {
                let drops = folded.entry(key.owner).or_default();
                add(drops.entry((key.direction, key.reason)).or_default(), tally);
            }
        }
        folded
    }

    /// Removes drops from the kernel's map that are kept elsewhere.
    pub(super) fn remove_drops<'a>(&mut self, keys: impl IntoIterator<Item = &'a DropKey>) {
        let Some(map) = &mut self.kernel.drops else {
            return;
        };
        let failed = keys.into_iter().filter_map(|key| map.remove(key).err()).last();
        if let Some(error) = failed {
            self.count_map_error("drops", &error);
        }
    }

    /// Keeps the sums of drops whose container is forgotten, or never was known.
    pub(super) fn forget_drops(&mut self, drops: &Drops, of_nobody: bool) {
        for ((_direction, reason), tally) in drops {
            let (all, nobodys) = self.past_drops.entry(*reason).or_default();
            *all += tally.packets;
            *nobodys += if of_nobody { tally.packets } else { 0 };
        }
    }
}

pub(super) fn add(sum: &mut DropTally, other: DropTally) {
    let DropTally { packets, bytes } = sum;
    *packets += other.packets;
    *bytes += other.bytes;
}

/// The `direction` label of the kernel side's number.
pub(super) fn direction(number: u32) -> &'static str {
    match number {
        DROP_RECEIVE => "receive",
        DROP_TRANSMIT => "transmit",
        _ => "unknown",
    }
}
