//! Slots and owners of an earlier dtm's maps, where this one's are others.

use std::collections::HashMap;

use dtm_common::drops::{OWNER_NONE, OWNER_PENDING};

/// New slots in the place of those of other maps.
#[derive(Debug)]
pub(super) struct Moves {
    /// None where the maps are the same.
    slots: Option<HashMap<u32, Option<u32>>>,
    /// How many slots there are.
    limit: u32,
    /// Whose the drops of slots are that have ended: numbers of containers.
    ended: HashMap<u32, u32>,
}

impl Moves {
    /// None: of `limit` slots each is the same.
    pub(super) fn none(limit: u32) -> Self {
        Self {
            slots: None,
            limit,
            ended: HashMap::new(),
        }
    }

    /// To the first slots of `limit`, of those that are in use.
    pub(super) fn to(limit: u32, in_use: impl Iterator<Item = u32>, ended: HashMap<u32, u32>) -> Self {
        let mut new = 0..limit;
        Self {
            slots: Some(in_use.map(|old| (old, new.next())).collect()),
            limit,
            ended,
        }
    }

    /// Whether the maps are others.
    pub(super) fn are_any(&self) -> bool {
        self.slots.is_some()
    }

    /// The slot in the place of this one; none where there are too few.
    pub(super) fn slot(&self, slot: u32) -> Option<u32> {
        match &self.slots {
            None => Some(slot).filter(|slot| *slot < self.limit),
            Some(moved) => moved.get(&slot).copied().flatten(),
        }
    }

    /// The owner of drops in the place of this one.
    pub(super) fn owner(&self, owner: u32) -> u32 {
        if owner & OWNER_PENDING == 0 || self.slots.is_none() {
            return owner;
        }
        let slot = owner & !OWNER_PENDING;
        match self.slot(slot) {
            Some(slot) => OWNER_PENDING | slot,
            None => self.ended.get(&slot).copied().unwrap_or(OWNER_NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_maps_have_the_same_slots() {
        let moves = Moves::none(8);
        assert_eq!(moves.slot(8), None, "somebody has written into the journal");
        assert_eq!(
            (moves.slot(7), moves.owner(OWNER_PENDING | 7), moves.owner(3)),
            (Some(7), OWNER_PENDING | 7, 3)
        );
    }

    #[test]
    fn other_maps_have_the_first_slots_as_far_as_there_are_any() {
        let moves = Moves::to(2, [9, 4, 6].into_iter(), HashMap::from([(5, 31)]));
        assert_eq!(
            [9, 4, 6, 8].map(|slot| moves.slot(slot)),
            [Some(0), Some(1), None, None]
        );
        assert_eq!(moves.owner(OWNER_PENDING | 4), OWNER_PENDING | 1);
        assert_eq!(
            moves.owner(OWNER_PENDING | 5),
            31,
            "it had ended, and was somebody's"
        );
        assert_eq!(moves.owner(OWNER_PENDING | 6), OWNER_NONE);
        assert_eq!(moves.owner(31), 31);
    }
}
