//! Whose the drops are that the kernel side has counted.

use dtm_common::drops::{DROP_RECEIVE, DROP_TRANSMIT, DropTally};

use super::{
    Tracker,
    containers::{Drops, Tracked},
};

impl Tracked {
    /// Adds drops whose keys are gone.
    pub(super) fn add_past_drops(&mut self, drops: Drops) {
        for (key, tally) in drops {
            add(self.past_drops.entry(key).or_default(), tally);
        }
    }
}

impl Tracker {
    /// Takes the drops of `owners` out of the kernel's map: nothing counts under them any more.
    pub(super) fn fold_drops(&mut self, owners: &[u32]) -> Drops {
        let mut folded = Drops::new();
        let Some(map) = &mut self.kernel.drops else {
            return folded;
        };
        let entries = match map.read() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "cannot read the map of drops");
                return folded;
            }
        };
        let mut failed = None;
        for (key, tally) in entries
            .into_iter()
            .filter(|(key, _tally)| owners.contains(&key.owner))
        {
            add(folded.entry((key.direction, key.reason)).or_default(), tally);
            failed = map.remove(&key).err().or(failed);
        }
        if let Some(error) = failed {
            self.count_map_error("drops", &error);
        }
        folded
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
