//! Adding up traffic.

use std::ops::{AddAssign, Sub};

use dtm_common::traffic::Tally;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Traffic;

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self { receive, transmit } = self;
        add(receive, other.receive);
        add(transmit, other.transmit);
    }
}

impl Sub for Traffic {
    type Output = Self;

    /// What came since `earlier`, an earlier reading of the same counters.
    fn sub(self, earlier: Self) -> Self {
        Self {
            receive: since(self.receive, earlier.receive),
            transmit: since(self.transmit, earlier.transmit),
        }
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
    /// Bytes, packets and wire bytes received, then the same transmitted.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = |tally: Tally| [tally.bytes, tally.packets, tally.wire_bytes];
        [numbers(self.receive), numbers(self.transmit)].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Traffic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tally = |[bytes, packets, wire_bytes]: [u64; 3]| Tally {
            bytes,
            packets,
            wire_bytes,
        };
        let [receive, transmit] = <[[u64; 3]; 2]>::deserialize(deserializer)?;
        Ok(Self {
            receive: tally(receive),
            transmit: tally(transmit),
        })
    }
}
