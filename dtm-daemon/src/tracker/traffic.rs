//! Adding up traffic.

use std::ops::AddAssign;

use dtm_common::traffic::Tally;

use super::Traffic;

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self { receive, transmit } = self;
        add(receive, other.receive);
        add(transmit, other.transmit);
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
