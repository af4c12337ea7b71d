//! Which slots of the counters are in use.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How long a slot rests before it is given out again: longer than any program run that may still add to it.
pub(super) const REST: Duration = Duration::from_secs(1);

/// Hands out dense slots: low numbers first, so that few pages of the counters are ever touched.
#[derive(Debug)]
pub(crate) struct Slots {
    /// The first slot that was never given out.
    next: u32,
    limit: u32,
    /// Given back, in order of their time.
    resting: VecDeque<(Instant, u32)>,
    in_use: u32,
}

impl Slots {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            next: 0,
            limit,
            resting: VecDeque::new(),
            in_use: 0,
        }
    }

    /// Takes in which slots are in use; the others of those that were ever given out rest since `now`.
    pub(crate) fn restore(&mut self, in_use: &BTreeSet<u32>, now: Instant) {
        self.next = in_use.last().map_or(0, |last| last + 1);
        self.in_use = in_use.len() as u32;
        let rest = (0..self.next).filter(|slot| !in_use.contains(slot));
        self.resting = rest.map(|slot| (now, slot)).collect();
    }

    /// A slot nothing counts into; none where all are in use or resting.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u32> {
        let rested = self
            .resting
            .front()
            .is_some_and(|(since, _slot)| now.duration_since(*since) >= REST);
        let slot = if rested {
            self.resting.pop_front().map(|(_since, slot)| slot)
        } else {
            (self.next < self.limit).then(|| {
                self.next += 1;
                self.next - 1
            })
        }?;
        self.in_use += 1;
        Some(slot)
    }

    /// How many slots there are.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// How many slots there are to take.
    pub(crate) fn free(&self, now: Instant) -> usize {
        let rested = |(since, _slot): &&(Instant, u32)| now.duration_since(*since) >= REST;
        (self.limit - self.next) as usize + self.resting.iter().take_while(rested).count()
    }

    /// Gives a slot back that nothing counts into `since` then.
    pub(crate) fn give_back(&mut self, slot: u32, since: Instant) {
        self.in_use -= 1;
        self.resting.push_back((since, slot));
    }

    /// Slots in use, and the most there can be.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.in_use.into(), self.limit.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_rests_before_it_is_used_again() {
        let mut slots = Slots::new(2);
        let start = Instant::now();
        assert_eq!(
            (slots.take(start), slots.take(start), slots.take(start)),
            (Some(0), Some(1), None)
        );
        slots.give_back(0, start);
        assert_eq!(slots.take(start), None, "it may still be counted into");
        assert_eq!((slots.free(start), slots.free(start + REST)), (0, 1));
        assert_eq!(slots.take(start + REST), Some(0));
        assert_eq!(slots.usage(), (2, 2));
    }

    #[test]
    fn slots_in_use_before_are_not_given_out_again() {
        let mut slots = Slots::new(5);
        let start = Instant::now();
        slots.restore(&BTreeSet::from([1, 3]), start);
        assert_eq!(slots.usage(), (2, 5));
        let taken: Vec<_> = std::iter::from_fn(|| slots.take(start)).collect();
        assert_eq!(taken, [4], "what is free rests first");
        let taken: Vec<_> = std::iter::from_fn(|| slots.take(start + REST)).collect();
        assert_eq!(taken, [0, 2]);
        slots.restore(&BTreeSet::new(), start);
        assert_eq!(slots.usage(), (0, 5));
    }

    #[test]
    fn a_rested_slot_is_preferred_to_a_fresh_one() {
        let mut slots = Slots::new(3);
        let start = Instant::now();
        let first = slots.take(start).unwrap();
        slots.give_back(first, start);
        assert_eq!(slots.take(start + REST), Some(first));
    }
}
