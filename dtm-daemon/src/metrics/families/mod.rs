//! Every metric family dtm exposes: name, labels, help, and where its samples come from.

mod container;
mod daemon;
mod host;
mod infrastructure;
mod network;
mod process;
mod tcp;
mod traffic;
mod uplinks;

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{Scrape, samples::Samples};

/// What kind of number a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many of each size there were.
    Histogram,
}

/// A metric family.
#[derive(Debug)]
pub(super) struct Family {
    /// The name of its samples. Kind and unit follow from it: `_total` is a counter, `_bytes` and `_seconds`
    /// before that are units.
    pub(super) name: &'static str,
    /// The names of its labels.
    pub(super) labels: &'static [&'static str],
    /// What it means. Nothing in it needs escaping in any format.
    pub(super) help: &'static str,
    samples: fn(&Scrape, &mut Samples<'_>) -> fmt::Result,
}

/// Families that belong together.
#[derive(Debug)]
pub(super) struct Section {
    /// What they are about.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the heading is for docs/metrics.md, which a test writes")
    )]
    pub(super) title: &'static str,
    /// The families, in the order in which they are exposed.
    pub(super) families: &'static [Family],
}

/// All families, in the order in which they are exposed.
pub(super) const SECTIONS: [Section; 9] = [
    container::SECTION,
    traffic::SECTION,
    tcp::SECTION,
    network::SECTION,
    infrastructure::SECTION,
    host::SECTION,
    uplinks::SECTION,
    daemon::SECTION,
    process::SECTION,
];

/// All families, in the order in which they are exposed.
pub(super) fn all() -> impl Iterator<Item = &'static Family> {
    SECTIONS.iter().flat_map(|section| section.families)
}

impl Family {
    /// What its name says.
    pub(super) fn kind(&self) -> Kind {
        if tcp::HISTOGRAMS.contains(&self.name) {
            Kind::Histogram
        } else if self.name.ends_with("_total") {
            Kind::Counter
        } else {
            Kind::Gauge
        }
    }

    /// The base unit, and the name without it and without what a counter's name ends in.
    pub(super) fn unit(&self) -> (&'static str, Option<Unit>) {
        let family = self.name.strip_suffix("_total").unwrap_or(self.name);
        for (suffix, unit) in [("_bytes", Unit::Bytes), ("_seconds", Unit::Seconds)] {
            if let Some(base) = family.strip_suffix(suffix) {
                return (base, Some(unit));
            }
        }
        (family, None)
    }

    /// Writes the family's description, and its samples if there are any.
    pub(super) fn encode(&self, scrape: &Scrape, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = self.kind();
        let metric_type = match kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        // The encoder puts unit and `_total` back.
        let (base, unit) = self.unit();
        let encoder = encoder.encode_descriptor(base, self.help, unit.as_ref(), metric_type)?;
        (self.samples)(scrape, &mut Samples::new(encoder, kind, self.labels))
    }
}
