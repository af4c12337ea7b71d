//! The matrix as an earlier process knew it.

use std::time::Instant;

use dtm_common::{flows::FlowKey, views::Volume};

use crate::tracker::{
    Tracker,
    flows::{End, Series},
    interfaces::Role,
    records::{Clock, EndRecord, PairRecord, TotalsRecord},
    sites::number,
};

impl Tracker {
    /// Takes in whose numbers are, and what pairs moved that are gone. To be called when the interfaces are there.
    pub(super) fn restore_flows(
        &mut self,
        ends: Vec<EndRecord>,
        pairs: Vec<PairRecord>,
        totals: &TotalsRecord,
        clock: Clock,
    ) {
        let now = Instant::now();
        let (bytes, packets) = totals.past_rest;
        self.flows.past_rest = Volume { bytes, packets };
        let folded = totals.folded_flows.iter();
        let folded: Vec<_> = folded
            .map(|(source, destination)| FlowKey {
                source: *source,
                destination: *destination,
            })
            .collect();
        self.remove_flows(folded);
        for PairRecord {
            source,
            destination,
            past: (bytes, packets),
        } in pairs
        {
            let series = Series::restored(Volume { bytes, packets }, now);
            self.flows.series.insert((source, destination), series);
        }
        let living = self.interfaces.values();
        let living: std::collections::HashSet<u32> =
            living.map(|interface| number(interface.generation)).collect();
        for EndRecord { number, name, ended } in ends {
            let ended = match ended {
                Some(ended) => Some(clock.moment(ended)),
                None => (!living.contains(&number)).then_some(now),
            };
            self.flows.ends.insert(number, End { name, ended });
        }
        // A dtm without a matrix has named what it knew all the same.
        let named = self.interfaces.values().filter_map(|interface| {
            let Role::Container(named) = &interface.role else {
                return None;
            };
            let number = number(interface.generation);
            let tracked = self.containers.get(&named.container)?;
            (self.flows.ends.get(&number).is_none())
                .then(|| (number, std::sync::Arc::clone(&tracked.container.name)))
        });
        for (number, name) in named.collect::<Vec<_>>() {
            self.flows.name(number, &name);
        }
    }
}
