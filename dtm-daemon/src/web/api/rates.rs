//! Totals and what they grew by per second.

use dtm_common::{traffic::Tally, views::Volume};
use serde::Serialize;

use crate::web::readings::Earlier;

/// What a counter grew by in a second.
///
/// None where there is no earlier reading or the counter was not in it, and where it was more then: it cannot have been
/// the same one.
pub(super) type Rate = Option<f64>;

/// Bytes and packets, as totals and by the second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Moved {
    bytes: u64,
    packets: u64,
    bytes_per_second: Rate,
    packets_per_second: Rate,
}

/// The same of an interface, of which the bytes on a wire are known.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Carried {
    bytes: u64,
    packets: u64,
    wire_bytes: u64,
    bytes_per_second: Rate,
    packets_per_second: Rate,
}

impl Moved {
    /// `before` is the same counter in the earlier reading.
    pub(super) fn new(now: Volume, before: Option<Volume>, earlier: Option<&Earlier>) -> Self {
        let before = before.map(|before| [before.bytes, before.packets]);
        let [bytes_per_second, packets_per_second] = rates([now.bytes, now.packets], before, earlier);
        Self {
            bytes: now.bytes,
            packets: now.packets,
            bytes_per_second,
            packets_per_second,
        }
    }
}

impl Carried {
    /// `before` is the same counter in the earlier reading.
    pub(super) fn new(now: Tally, before: Option<Tally>, earlier: Option<&Earlier>) -> Self {
        let before = before.map(|before| [before.bytes, before.packets]);
        let [bytes_per_second, packets_per_second] = rates([now.bytes, now.packets], before, earlier);
        Self {
            bytes: now.bytes,
            packets: now.packets,
            wire_bytes: now.wire_bytes,
            bytes_per_second,
            packets_per_second,
        }
    }
}

/// Over how long the rates of an answer are, to the millisecond.
pub(super) fn seconds(earlier: Option<&Earlier>) -> Rate {
    earlier.map(|earlier| thousandths(earlier.seconds))
}

/// The rate of one counter; `before` is what it was in the earlier reading.
pub(super) fn rate(now: u64, before: Option<u64>, earlier: Option<&Earlier>) -> Rate {
    let [rate] = rates([now], before.map(|before| [before]), earlier);
    rate
}

/// The rates of counters that begin and end together: if one was more then, they are none of the same.
fn rates<const COUNTERS: usize>(
    now: [u64; COUNTERS],
    before: Option<[u64; COUNTERS]>,
    earlier: Option<&Earlier>,
) -> [Rate; COUNTERS] {
    let mut rates = [None; COUNTERS];
    let (Some(before), Some(earlier)) = (before, earlier) else {
        return rates;
    };
    if now.iter().zip(before).all(|(now, before)| *now >= before) {
        for (rate, (now, before)) in rates.iter_mut().zip(now.into_iter().zip(before)) {
            *rate = Some(thousandths((now - before) as f64 / earlier.seconds));
        }
    }
    rates
}

/// Further digits say nothing and are half of the text.
fn thousandths(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_rate_is_what_came_by_the_second_or_nothing() {
        let earlier = Earlier {
            snapshot: Arc::default(),
            seconds: 1.5,
        };
        assert_eq!(rate(10, Some(7), Some(&earlier)), Some(2.0));
        assert_eq!(rate(10, Some(9), Some(&earlier)), Some(0.667));
        assert_eq!(rate(10, Some(10), Some(&earlier)), Some(0.0));
        assert_eq!(rate(10, Some(11), Some(&earlier)), None);
        assert_eq!(rate(10, None, Some(&earlier)), None);
        assert_eq!(rate(10, Some(7), None), None);
    }

    #[test]
    fn a_counter_that_stepped_back_takes_its_companions_along() {
        let earlier = Earlier {
            snapshot: Arc::default(),
            seconds: 2.0,
        };
        let volume = |bytes, packets| Volume { bytes, packets };
        let moved = Moved::new(volume(100, 1), Some(volume(90, 2)), Some(&earlier));
        assert_eq!((moved.bytes_per_second, moved.packets_per_second), (None, None));
        let tally = |bytes, packets| Tally {
            bytes,
            packets,
            wire_bytes: bytes,
        };
        let carried = Carried::new(tally(1, 2), Some(tally(2, 1)), Some(&earlier));
        assert_eq!(
            (carried.bytes_per_second, carried.packets_per_second),
            (None, None)
        );
    }
}
