//! The exposition: a [`Snapshot`] and the daemon's own process as Prometheus reads them.
//!
//! Every family is one row of a table ([`families`]); what is exposed and `docs/metrics.md` both come from it.

#[cfg(test)]
mod docs;
mod families;
#[cfg(test)]
pub(crate) mod fixture;
mod process;
mod samples;
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::traffic::Tally;
use prometheus_client::{
    collector::Collector,
    encoding::{self, DescriptorEncoder},
    registry::Registry,
};

use crate::{
    config::Config,
    tracker::{Infrastructure, Snapshot, Traffic},
};
use process::Process;

/// A format Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

/// Writes everything a scrape shows in `format`.
///
/// # Errors
///
/// Only where a family of the table cannot be encoded, which its tests rule out.
pub fn encode(snapshot: Arc<Snapshot>, config: Arc<Config>, format: Format) -> Result<String, fmt::Error> {
    let started = Instant::now();
    let process = Process::read();
    if let Err(error) = &process {
        tracing::debug!(
            error = format_args!("{error:#}"),
            "cannot read the daemon's own process"
        );
    }
    Scrape::new(snapshot, config, process.ok(), started.elapsed()).encode(format)
}

/// What one scrape is made of.
#[derive(Debug)]
struct Scrape {
    snapshot: Arc<Snapshot>,
    config: Arc<Config>,
    /// By name and driver. Docker allows two networks of one name: a series of each would be a duplicate, so
    /// they are one.
    networks: BTreeMap<(Arc<str>, Arc<str>), NetworkSums>,
    /// By what it is for and the network's name.
    infrastructure: BTreeMap<(Infrastructure, Arc<str>), Traffic>,
    /// The daemon's own process, where it could be read.
    process: Option<Process>,
    process_duration: Duration,
}

/// The sums of all networks of one name and driver.
#[derive(Debug, Default)]
struct NetworkSums {
    containers: Traffic,
    bridge: Option<Traffic>,
}

impl Scrape {
    fn new(
        snapshot: Arc<Snapshot>,
        config: Arc<Config>,
        process: Option<Process>,
        process_duration: Duration,
    ) -> Self {
        let mut networks = BTreeMap::<_, NetworkSums>::new();
        let mut infrastructure = BTreeMap::<_, Traffic>::new();
        for network in &snapshot.networks {
            let sums = networks
                .entry((Arc::clone(&network.name), Arc::clone(&network.driver)))
                .or_default();
            add(&mut sums.containers, &network.containers);
            if let Some(bridge) = &network.bridge {
                add(sums.bridge.get_or_insert_default(), bridge);
            }
            for (kind, traffic) in &network.infrastructure {
                let key = (*kind, Arc::clone(&network.name));
                add(infrastructure.entry(key).or_default(), traffic);
            }
        }
        Self {
            snapshot,
            config,
            networks,
            infrastructure,
            process,
            process_duration,
        }
    }

    fn encode(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        // A scrape of a few containers fits.
        let mut openmetrics = String::with_capacity(64 * 1024);
        encoding::text::encode(&mut openmetrics, &registry)?;
        Ok(match format {
            Format::OpenMetrics => openmetrics,
            Format::Text => text::from_openmetrics(&openmetrics),
        })
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        families::all().try_for_each(|family| family.encode(self, &mut encoder))
    }
}

fn add(sum: &mut Traffic, traffic: &Traffic) {
    let tally = |sum: &mut Tally,
                 Tally {
                     bytes,
                     packets,
                     wire_bytes,
                 }: Tally| {
        sum.bytes = sum.bytes.saturating_add(bytes);
        sum.packets = sum.packets.saturating_add(packets);
        sum.wire_bytes = sum.wire_bytes.saturating_add(wire_bytes);
    };
    tally(&mut sum.receive, traffic.receive);
    tally(&mut sum.transmit, traffic.transmit);
}
