//! From the container's directions to the kernel's: here and nowhere else.

use dtm_common::traffic::Direction;
use serde::{Deserialize, Serialize};

/// Which end of a container's interface programs are attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The host's end of a pair: what the container transmits comes in there. A bridge seen from its network, too.
    #[default]
    HostEnd,
    /// The device the container itself has, where there is no other end: macvlan, ipvlan.
    ///
    /// Such a device is made in the host's namespace and then moved. A TCX link moves along and goes on counting; a
    /// clsact qdisc, and with it its filters, is deleted by the move. Its index is another one afterwards, and the one
    /// it had may be given to somebody else: how the attachment stands is then to be asked by an
    /// [`Attacher`](super::Attacher) in the container's namespace, with the [`Place`](super::Place) that the one before
    /// the move gave.
    OwnDevice,
}

/// One of an interface's two hooks, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// What the interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Hook {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl Side {
    /// The hook at which this direction of the container's traffic passes.
    pub fn hook(self, direction: Direction) -> Hook {
        match (self, direction) {
            (Self::HostEnd, Direction::Transmit) | (Self::OwnDevice, Direction::Receive) => Hook::Ingress,
            (Self::HostEnd, Direction::Receive) | (Self::OwnDevice, Direction::Transmit) => Hook::Egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ends_of_a_wire_are_each_others_mirror() {
        for direction in [Direction::Transmit, Direction::Receive] {
            assert_ne!(Side::HostEnd.hook(direction), Side::OwnDevice.hook(direction));
        }
        assert_eq!(Side::default().hook(Direction::Transmit), Hook::Ingress);
        assert_eq!(Side::OwnDevice.hook(Direction::Transmit), Hook::Egress);
    }
}
