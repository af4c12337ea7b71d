//! Adding up traffic.

use std::ops::{AddAssign, Sub};

use dtm_common::traffic::Tally;

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
