//! Adding up traffic.

use std::ops::{AddAssign, Sub};

use dtm_common::{traffic::Tally, views::ViewCounters};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::Traffic;
use crate::net::DeviceDrops;

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self {
            receive,
            transmit,
            views,
            dropped,
        } = self;
        add(receive, other.receive);
        add(transmit, other.transmit);
        add_views(views, &other.views);
        if let Some(other) = other.dropped {
            let DeviceDrops { receive, transmit } = dropped.get_or_insert_default();
            *receive += other.receive;
            *transmit += other.transmit;
        }
    }
}

impl Sub for Traffic {
    type Output = Self;

    /// What came since `earlier`, an earlier reading of the same counters.
    fn sub(self, earlier: Self) -> Self {
        Self {
            receive: since(self.receive, earlier.receive),
            transmit: since(self.transmit, earlier.transmit),
            views: {
                let mut views = self.views;
                for (now, earlier) in views.words_mut().zip(earlier.views.words()) {
                    *now = now.saturating_sub(earlier);
                }
                views
            },
            dropped: self.dropped.map(|now| {
                let earlier = earlier.dropped.unwrap_or_default();
                DeviceDrops {
                    receive: now.receive.saturating_sub(earlier.receive),
                    transmit: now.transmit.saturating_sub(earlier.transmit),
                }
            }),
        }
    }
}

impl Traffic {
    /// The same without its second view, which only containers have.
    pub(super) fn totals(&self) -> Self {
        Self {
            views: ViewCounters::default(),
            ..*self
        }
    }
}

/// Adds to the second view of a traffic.
pub(super) fn add_views(sum: &mut ViewCounters, other: &ViewCounters) {
    for (sum, other) in sum.words_mut().zip(other.words()) {
        *sum += other;
    }
}

fn since(now: Tally, earlier: Tally) -> Tally {
    Tally {
        bytes: now.bytes.saturating_sub(earlier.bytes),
        packets: now.packets.saturating_sub(earlier.packets),
        wire_bytes: now.wire_bytes.saturating_sub(earlier.wire_bytes),
    }
}

fn add(sum: &mut Tally, other: Tally) {
    let Tally {
        bytes,
        packets,
        wire_bytes,
    } = sum;
    *bytes += other.bytes;
    *packets += other.packets;
    *wire_bytes += other.wire_bytes;
}

impl Serialize for Traffic {
    /// Bytes, packets and wire bytes received, then the same transmitted, then what the second view has, if anything, and what
    /// devices threw away, if that is known.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = |tally: Tally| vec![tally.bytes, tally.packets, tally.wire_bytes];
        let mut parts = vec![numbers(self.receive), numbers(self.transmit)];
        let views = view_numbers(&self.views);
        if !views.is_empty() || self.dropped.is_some() {
            parts.push(views);
        }
        parts.extend(
            self.dropped
                .map(|dropped| vec![dropped.receive, dropped.transmit]),
        );
        parts.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Traffic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = <Vec<Vec<u64>>>::deserialize(deserializer)?;
        let tally = |part: usize| match parts.get(part).map(Vec::as_slice) {
            Some(&[bytes, packets, wire_bytes]) => Ok(Tally {
                bytes,
                packets,
                wire_bytes,
            }),
            _ => Err(D::Error::custom("a tally has three numbers")),
        };
        Ok(Self {
            receive: tally(0)?,
            transmit: tally(1)?,
            views: views_of(parts.get(2).map(Vec::as_slice).unwrap_or_default()),
            dropped: match parts.get(3).map(Vec::as_slice) {
                Some(&[receive, transmit]) => Some(DeviceDrops { receive, transmit }),
                _ => None,
            },
        })
    }
}

/// The words of a view that are not zero: for each its place and its value.
pub(super) fn view_numbers(views: &ViewCounters) -> Vec<u64> {
    let words = views.words().enumerate();
    words
        .filter(|(_place, value)| *value != 0)
        .flat_map(|(place, value)| [place as u64, value])
        .collect()
}

/// The view of which these are the words; one that this dtm does not know is left out.
pub(super) fn views_of(numbers: &[u64]) -> ViewCounters {
    let mut views = ViewCounters::default();
    for pair in numbers.chunks_exact(2) {
        let place = usize::try_from(pair[0]).ok();
        if let Some(word) = place.and_then(|place| views.words_mut().nth(place)) {
            *word = pair[1];
        }
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Traffic {
        let mut traffic = Traffic {
            receive: Tally {
                bytes: 5,
                packets: 1,
                wire_bytes: 6,
            },
            ..Traffic::default()
        };
        traffic.views.receive.cells[2][1].bytes = 5;
        traffic.views.receive.cells[2][1].packets = 1;
        traffic.views.transmit.syns = u64::MAX / 4;
        traffic
    }

    #[test]
    fn what_is_written_down_comes_back() {
        let dropped = Some(DeviceDrops {
            receive: 3,
            transmit: 4,
        });
        let thrown = Traffic {
            dropped,
            ..Traffic::default()
        };
        let both = Traffic { dropped, ..example() };
        for traffic in [Traffic::default(), example(), thrown, both] {
            let text = serde_json::to_string(&traffic).unwrap();
            assert_eq!(serde_json::from_str::<Traffic>(&text).unwrap(), traffic, "{text}");
        }
        let old = serde_json::from_str::<Traffic>("[[1,2,3],[4,5,6]]").unwrap();
        assert_eq!((old.transmit.bytes, old.views), (4, ViewCounters::default()));
        assert!(serde_json::from_str::<Traffic>("[[1,2]]").is_err());
        let newer = serde_json::from_str::<Traffic>("[[1,2,3],[4,5,6],[1000,7,0,3]]").unwrap();
        assert_eq!(newer.views.receive.cells[0][0].bytes, 3);
    }

    #[test]
    fn views_add_up_like_tallies() {
        let mut sum = example();
        sum += example();
        assert_eq!(sum.views.receive.cells[2][1].bytes, 10);
        assert_eq!(sum - example(), example());
    }
}
