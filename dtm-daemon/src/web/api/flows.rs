//! `/api/v1/flows`: who sends to whom.

use std::collections::HashMap;

use serde::Serialize;

use super::rates::{Moved, Rate, seconds};
use crate::{
    tracker::{FlowSnapshot, Snapshot},
    web::readings::Earlier,
};

/// The matrix.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    seconds: Rate,
    pairs: Option<u64>,
    pairs_limit: Option<u64>,
    flows: Vec<Flow<'a>>,
}

#[derive(Debug, Serialize)]
struct Flow<'a> {
    source: &'a str,
    destination: &'a str,
    #[serde(flatten)]
    moved: Moved,
}

/// What a pair is known by.
fn pair(flow: &FlowSnapshot) -> (&str, &str) {
    (&flow.source, &flow.destination)
}

impl<'a> Answer<'a> {
    /// Those of `now`, in its order.
    pub(super) fn new(now: &'a Snapshot, earlier: Option<&Earlier>) -> Self {
        let before: HashMap<_, _> = earlier
            .iter()
            .flat_map(|earlier| &earlier.snapshot.flows)
            .map(|flow| (pair(flow), flow.volume))
            .collect();
        let flows = now.flows.iter().map(|flow| Flow {
            source: &flow.source,
            destination: &flow.destination,
            moved: Moved::new(flow.volume, before.get(&pair(flow)).copied(), earlier),
        });
        let pairs = now.status.flow_pairs;
        Self {
            seconds: seconds(earlier),
            pairs: pairs.map(|(taken, _limit)| taken),
            pairs_limit: pairs.map(|(_taken, limit)| limit),
            flows: flows.collect(),
        }
    }
}
