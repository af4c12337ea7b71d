//! What a journal says of the maps beside it, for whoever comes next.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem::offset_of,
};

use dtm_common::{
    LAYOUT,
    traffic::{SlotCounters, Tally},
    views::{CHUNK, ViewCounters},
};
use serde::{Deserialize, Serialize};

use super::{
    OBJECT,
    load::{Constants, Handlers},
};
use crate::net::netns_cookie;

/// The name of the entry.
pub(super) const NAME: &str = "kernel";

/// The maps and programs of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KernelRecord {
    /// The version of the maps' layout.
    pub(super) layout: u32,
    /// The code and constants of the programs, see [`identity`].
    pub(super) program: u64,
    /// The kernel's number for the network namespace, which no other namespace ever has; none on kernels before 5.14.
    pub(super) netns_cookie: Option<u64>,
    /// Slots in each bank of the counters, and how many banks there are.
    pub(super) slots: u32,
    pub(super) banks: usize,
    /// How a slot is laid out.
    pub(super) slot: SlotRecord,
    /// Bytes of a slot's second view, and slots in each chunk of it; none where there is none.
    #[serde(default)]
    pub(super) view: Option<(usize, u32)>,
    /// Where functions of the kernel are, where that could be read.
    #[serde(default)]
    pub(super) handlers: Option<Handlers>,
}

/// Where in a slot its counters are, in bytes: whoever has another layout can read them all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotRecord {
    pub(super) size: usize,
    pub(super) receive: TallyRecord,
    pub(super) transmit: TallyRecord,
}

/// The same of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TallyRecord {
    pub(super) bytes: usize,
    pub(super) packets: usize,
    pub(super) wire_bytes: usize,
}

impl SlotRecord {
    /// Of this dtm's own.
    pub(super) const OWN: Self = Self {
        size: size_of::<SlotCounters>(),
        receive: TallyRecord::at(offset_of!(SlotCounters, receive)),
        transmit: TallyRecord::at(offset_of!(SlotCounters, transmit)),
    };
}

impl TallyRecord {
    const fn at(start: usize) -> Self {
        Self {
            bytes: start + offset_of!(Tally, bytes),
            packets: start + offset_of!(Tally, packets),
            wire_bytes: start + offset_of!(Tally, wire_bytes),
        }
    }
}

/// What a second view of this dtm's is. Its words keep their places: one that is new takes a reserved one.
const OWN_VIEW: (usize, u32) = (size_of::<ViewCounters>(), CHUNK);

impl KernelRecord {
    /// Whether second views are laid out as this dtm's own.
    pub(super) fn views_are_own(&self) -> bool {
        self.view == Some(OWN_VIEW)
    }

    pub(super) fn new(program: u64, handlers: Option<Handlers>, slots: u32, banks: usize) -> Self {
        Self {
            layout: LAYOUT,
            program,
            netns_cookie: netns_cookie().ok(),
            slots,
            banks,
            slot: SlotRecord::OWN,
            view: Some(OWN_VIEW),
            handlers,
        }
    }
}

/// A number for the programs: their code and their constants. Another dtm with the same need not replace them.
pub(super) fn identity(constants: &Constants) -> u64 {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    for (name, value) in constants.iter() {
        (name, value).hash(&mut hasher);
    }
    hasher.finish()
}
