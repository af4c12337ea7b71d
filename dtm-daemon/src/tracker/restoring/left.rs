//! What the journal says, read.

use std::{collections::HashSet, sync::Arc};

use serde::de::DeserializeOwned;

use crate::{
    journal::Entries,
    tracker::{
        recording::{CONTAINER, END, ENDED, HIDDEN, INTERFACE, NETWORK, ORPHAN, PAIR, TOTALS},
        records::{
            ContainerRecord, EndRecord, EndedRecord, HiddenRecord, InterfaceRecord, NetworkRecord,
            OrphanRecord, PairRecord, TotalsRecord,
        },
    },
};

/// Everything the journal says, read.
#[derive(Default)]
pub(in crate::tracker) struct Left {
    pub(super) totals: TotalsRecord,
    pub(super) containers: Vec<ContainerRecord>,
    pub(super) networks: Vec<(Arc<str>, NetworkRecord)>,
    pub(super) interfaces: Vec<InterfaceRecord>,
    pub(super) orphans: Vec<OrphanRecord>,
    pub(super) ended: Vec<EndedRecord>,
    pub(in crate::tracker) hidden: Vec<HiddenRecord>,
    pub(super) ends: Vec<EndRecord>,
    pub(super) pairs: Vec<PairRecord>,
}

impl Left {
    /// The orphans, by their generations.
    pub(in crate::tracker) fn orphans(&self) -> HashSet<u64> {
        self.orphans.iter().map(|orphan| orphan.generation).collect()
    }

    /// The slots that have ended.
    pub(in crate::tracker) fn ended(&self) -> HashSet<u32> {
        self.ended.iter().map(|ended| ended.slot).collect()
    }

    /// Reads what it can; what it cannot is as if it were not there.
    pub(in crate::tracker) fn read(entries: &Entries) -> Self {
        let mut left = Self::default();
        for (name, text) in entries {
            if name == TOTALS {
                left.totals = parsed(name, text).unwrap_or_default();
            } else if name.starts_with(CONTAINER) {
                left.containers.extend(parsed(name, text));
            } else if let Some(id) = name.strip_prefix(NETWORK) {
                left.networks
                    .extend(parsed(name, text).map(|network| (Arc::from(id), network)));
            } else if name.starts_with(INTERFACE) {
                left.interfaces.extend(parsed(name, text));
            } else if name.starts_with(ORPHAN) {
                left.orphans.extend(parsed(name, text));
            } else if name.starts_with(ENDED) {
                left.ended.extend(parsed(name, text));
            } else if name.starts_with(END) {
                left.ends.extend(parsed(name, text));
            } else if name.starts_with(PAIR) {
                left.pairs.extend(parsed(name, text));
            } else if name.starts_with(HIDDEN) {
                left.hidden.extend(parsed(name, text));
            }
        }
        left.interfaces.sort_by_key(|interface| interface.generation);
        left
    }
}

fn parsed<T: DeserializeOwned>(name: &str, text: &[u8]) -> Option<T> {
    serde_json::from_slice(text)
        .inspect_err(|error| tracing::warn!(name, %error, "what an earlier dtm has left is not understood"))
        .ok()
}
