//! What was counted of some traffic, by the kernel and by dtm.

use std::{
    iter::Sum,
    ops::{Add, Sub},
};

use anyhow::Result;

use crate::daemon::Samples;

/// What the kernel's interface counters count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Buffers: one for all segments of a GSO or GRO buffer.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What dtm counts. A bridge has no wire bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Wire packets.
    pub packets: u64,
    /// Bytes of buffers.
    pub bytes: u64,
    /// Bytes with the headers of every segment.
    pub wire_bytes: u64,
}

/// Both directions, as the container sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways<T> {
    /// What it is offered.
    pub receive: T,
    /// What it sends.
    pub transmit: T,
}

/// Both sides' counters, or how much they grew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The kernel's.
    pub kernel: Ways<Frames>,
    /// dtm's.
    pub ours: Ways<Tally>,
}

impl Frames {
    /// `packets` of `length` bytes each.
    pub fn of(packets: u64, length: u64) -> Self {
        Self {
            packets,
            bytes: packets * length,
        }
    }

    /// The same without their Ethernet headers.
    #[must_use]
    pub fn without_ethernet(self) -> Self {
        Self {
            packets: self.packets,
            bytes: self.bytes - 14 * self.packets,
        }
    }
}

impl Tally {
    /// `packets` of `length` bytes each, no segments and no tags among them.
    pub fn of(packets: u64, length: u64) -> Self {
        Self::tagged(packets, length, 0)
    }

    /// As [`of`](Self::of), with `tag` bytes of each on the wire alone.
    pub fn tagged(packets: u64, length: u64, tag: u64) -> Self {
        Self {
            packets,
            bytes: packets * length,
            wire_bytes: packets * (length + tag),
        }
    }

    /// What the kernel counts where nothing differs.
    pub fn frames(self) -> Frames {
        Frames {
            packets: self.packets,
            bytes: self.bytes,
        }
    }

    /// What the kernel counts where it sees each segment on its own.
    pub fn wire(self) -> Frames {
        Frames {
            packets: self.packets,
            bytes: self.wire_bytes,
        }
    }
}

impl Ways<Tally> {
    /// What dtm shows of the one series of a container's network that has these labels.
    ///
    /// # Errors
    ///
    /// Where there is none, or several.
    pub fn shown(samples: &Samples, labels: &[(&str, &str)]) -> Result<Self> {
        Self::read(|direction, unit| {
            samples.get(&format!("dtm_container_network_{direction}_{unit}_total"), labels)
        })
    }

    /// What `value` says of each direction and unit, by the words that dtm's metrics have for them.
    pub fn read(value: impl Fn(&str, &str) -> Result<u64>) -> Result<Self> {
        let way = |direction: &str| {
            anyhow::Ok(Tally {
                packets: value(direction, "packets")?,
                bytes: value(direction, "bytes")?,
                wire_bytes: value(direction, "wire_bytes")?,
            })
        };
        Ok(Self {
            receive: way("receive")?,
            transmit: way("transmit")?,
        })
    }
}

impl Reading {
    /// How much both sides grew since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            kernel: self.kernel - before.kernel,
            ours: self.ours - before.ours,
        }
    }
}

impl Sub for Frames {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
        }
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            wire_bytes: self.wire_bytes - before.wire_bytes,
        }
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            wire_bytes: self.wire_bytes + other.wire_bytes,
        }
    }
}

impl<T: Sub<Output = T>> Sub for Ways<T> {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            receive: self.receive - before.receive,
            transmit: self.transmit - before.transmit,
        }
    }
}

impl<T: Add<Output = T>> Add for Ways<T> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            receive: self.receive + other.receive,
            transmit: self.transmit + other.transmit,
        }
    }
}

impl<T: Add<Output = T> + Default> Sum for Ways<T> {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
