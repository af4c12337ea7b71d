//! Earlier readings of the counters, which the API's rates are since.
//!
//! A scrape's reading serves as well as one of the API's own: a host that Prometheus watches has rates in the first
//! answer. Two are enough. One is kept only if the one before is a second old, so that the newest but one can always be
//! used, however often somebody asks.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::tracker::Snapshot;

/// Counters say nothing about a rate over less: packets come in bursts.
const SHORTEST: Duration = Duration::from_secs(1);

/// What an answer calls a rate is of these days, not of the last time that somebody asked.
const LONGEST: Duration = Duration::from_mins(5);

/// How many are kept.
const KEPT: usize = 2;

/// The readings that are kept; every clone has the same ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    /// The newest first.
    kept: Arc<Mutex<Vec<Arc<Snapshot>>>>,
}

/// What rates are since.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    /// The reading.
    pub(super) snapshot: Arc<Snapshot>,
    /// How much later the reading is that the rates are for; never 0.
    pub(super) seconds: f64,
}

impl Readings {
    /// Keeps `reading`, if it is of use, and gives the youngest of the earlier ones that rates can be since.
    pub(super) fn add(&self, reading: &Arc<Snapshot>) -> Option<Earlier> {
        // What is kept is whole between any two statements.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|earlier| reading.read_at.saturating_sub(earlier.read_at) <= LONGEST);
        let since = |earlier: &Arc<Snapshot>| {
            let age = reading.read_at.checked_sub(earlier.read_at)?;
            (age >= SHORTEST).then(|| Earlier {
                snapshot: Arc::clone(earlier),
                seconds: age.as_secs_f64(),
            })
        };
        let earlier = kept.iter().find_map(since);
        if kept.first().is_none_or(|newest| since(newest).is_some()) {
            kept.insert(0, Arc::clone(reading));
            kept.truncate(KEPT);
        }
        earlier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(readings: &Readings, milliseconds: u64) -> Option<f64> {
        let reading = Arc::new(Snapshot {
            read_at: Duration::from_millis(milliseconds),
            ..Snapshot::default()
        });
        readings.add(&reading).map(|earlier| earlier.seconds)
    }

    #[test]
    fn the_youngest_that_is_a_second_old_is_taken() {
        let readings = Readings::default();
        assert_eq!(add(&readings, 10_000), None);
        assert_eq!(add(&readings, 10_999), None);
        assert_eq!(add(&readings, 12_000), Some(2.0));
        assert_eq!(add(&readings, 12_500), Some(2.5));
        assert_eq!(add(&readings, 13_000), Some(1.0));
    }

    #[test]
    fn one_that_is_read_late_is_no_negative_time() {
        let readings = Readings::default();
        assert_eq!(add(&readings, 10_000), None);
        assert_eq!(add(&readings, 8_000), None);
        assert_eq!(add(&readings, 11_000), Some(1.0));
    }

    #[test]
    fn old_ones_go_and_the_rest_are_few_however_often_somebody_asks() {
        let readings = Readings::default();
        assert_eq!(add(&readings, 0), None);
        assert_eq!(add(&readings, 300_000), Some(300.0));
        assert_eq!(add(&readings, 600_001), None);
        for number in 1..1_000 {
            let since = add(&readings, 600_001 + number * 10);
            assert_eq!(since.is_some(), number >= 100, "{number}");
            assert!(since.is_none_or(|since| (1.0..2.0).contains(&since)), "{since:?}");
        }
        assert_eq!(readings.kept.lock().unwrap().len(), 2);
    }
}
