//! The traffic counters, mapped into the daemon: reading them is reading memory.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use dtm_common::traffic::{SlotCounters, Tally};

use super::{
    mapping::Mapping,
    views::{ViewBanks, chunks},
};
use crate::tracker::Traffic;

/// 64-bit words in a slot, the reserved ones included.
const WORDS: usize = size_of::<SlotCounters>() / size_of::<u64>();

/// Every CPU's bank of slots.
#[derive(Debug)]
pub struct CounterBanks {
    mapping: Mapping,
    slots: usize,
    cpus: usize,
    /// The second view of each slot; none where it is switched off.
    views: Option<ViewBanks>,
}

impl CounterBanks {
    /// Maps the array `map` of `cpus` banks with `slots` slots each, and those of `views` that are there.
    pub(super) fn map(
        map: BorrowedFd<'_>,
        views: Option<OwnedFd>,
        slots: u32,
        cpus: usize,
    ) -> io::Result<Self> {
        let views = views.map(|views| ViewBanks::open(views, chunks(slots), cpus));
        let slots = slots as usize;
        // The kernel rounds the array up to whole pages; so does mmap.
        let bytes = slots * cpus * size_of::<SlotCounters>();
        Ok(Self {
            mapping: Mapping::new(map, bytes)?,
            slots,
            cpus,
            views: views.transpose()?,
        })
    }

    /// The sum of a slot over all CPUs.
    ///
    /// Each number is exact as of its own load. Bytes and packets of a packet that is being counted at this
    /// moment may be seen apart; the next read has both. So may the second view, which is read before the totals: it never
    /// says more than they do.
    pub fn read(&self, slot: u32) -> Traffic {
        let views = self.views.as_ref().map(|views| views.read(slot));
        let mut sums = [0_u64; WORDS];
        for cpu in 0..self.cpus {
            for (sum, word) in sums.iter_mut().zip(self.words(cpu, slot)) {
                *sum += word.load(Ordering::Relaxed);
            }
        }
        let [
            receive_bytes,
            receive_packets,
            receive_wire,
            transmit_bytes,
            transmit_packets,
            transmit_wire,
            ..,
        ] = sums;
        Traffic {
            receive: Tally {
                bytes: receive_bytes,
                packets: receive_packets,
                wire_bytes: receive_wire,
            },
            transmit: Tally {
                bytes: transmit_bytes,
                packets: transmit_packets,
                wire_bytes: transmit_wire,
            },
            views: views.unwrap_or_default(),
            dropped: None,
        }
    }

    /// Has memory for everything that is counted of a slot.
    ///
    /// # Errors
    ///
    /// Where the kernel has none for the second view: the totals are counted all the same.
    pub fn prepare(&mut self, slot: u32) -> io::Result<()> {
        self.views.as_mut().map_or(Ok(()), |views| views.prepare(slot))
    }

    /// Sets a slot to zero. Only for a slot no attached program counts into.
    pub fn clear(&self, slot: u32) {
        for cpu in 0..self.cpus {
            for word in self.words(cpu, slot) {
                word.store(0, Ordering::Relaxed);
            }
        }
        if let Some(views) = &self.views {
            views.clear(slot);
        }
    }

    /// How many slots a bank has.
    pub fn slots(&self) -> u32 {
        self.slots as u32
    }

    fn words(&self, cpu: usize, slot: u32) -> &[AtomicU64] {
        let slot = slot as usize;
        assert!(
            cpu < self.cpus && slot < self.slots,
            "slot {slot} of {} on CPU {cpu}",
            self.slots
        );
        &self.mapping.words()[(cpu * self.slots + slot) * WORDS..][..WORDS]
    }
}
