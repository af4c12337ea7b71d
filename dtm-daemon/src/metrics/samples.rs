//! Writes the samples of one family.

use std::fmt;

use prometheus_client::encoding::{
    EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};

use super::families::Kind;

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// A count, exact to the last unit.
    Count(u64),
    /// Seconds and the like.
    Real(f64),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Count(u64::from(yes))
    }
}

/// How many of each size there were.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution<'a> {
    /// Upper bounds, the last of them `f64::INFINITY` for those that have none, and how many were above the one before.
    pub(super) buckets: &'a [(f64, u64)],
    /// Of all of them.
    pub(super) sum: f64,
}

/// Takes the samples of a family.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    kind: Kind,
    labels: &'static [&'static str],
}

impl<'a> Samples<'a> {
    /// Samples of a family of `kind`, all with these labels.
    pub(super) fn new(encoder: MetricEncoder<'a>, kind: Kind, labels: &'static [&'static str]) -> Self {
        Self {
            encoder,
            kind,
            labels,
        }
    }

    /// Adds a sample; `values` are those of the family's labels, in their order.
    pub(super) fn add(&mut self, values: &[&str], value: impl Into<Value>) -> fmt::Result {
        self.add_with(values, &[], value)
    }

    /// Adds a sample that has labels beyond the family's own.
    pub(super) fn add_with(
        &mut self,
        values: &[&str],
        further: &[(&str, &str)],
        value: impl Into<Value>,
    ) -> fmt::Result {
        debug_assert_eq!(
            self.labels.len(),
            values.len(),
            "a value for each of {:?}",
            self.labels
        );
        let labels = Labels {
            names: self.labels,
            values,
            further,
        };
        if self.labels.is_empty() {
            // An empty label set would leave a pair of braces.
            return encode(&mut self.encoder, self.kind, value.into());
        }
        encode(&mut self.encoder.encode_family(&labels)?, self.kind, value.into())
    }
}

impl Samples<'_> {
    /// Adds a histogram; `values` are those of the family's labels, in their order.
    pub(super) fn add_distribution(
        &mut self,
        values: &[&str],
        distribution: Distribution<'_>,
    ) -> fmt::Result {
        debug_assert_eq!(self.kind, Kind::Histogram, "the family is one of histograms");
        let labels = Labels {
            names: self.labels,
            values,
            further: &[],
        };
        let Distribution { buckets, sum } = distribution;
        let count = buckets.iter().map(|(_bound, count)| count).sum();
        self.encoder
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, kind: Kind, value: Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, _, f64>(&count, None),
        (Kind::Counter, Value::Real(real)) => encoder.encode_counter::<NoLabelSet, _, f64>(&real, None),
        // A family of histograms has no other samples.
        (Kind::Histogram, _) => Err(fmt::Error),
        (Kind::Gauge, Value::Count(count)) => encoder.encode_gauge(&count),
        (Kind::Gauge, Value::Real(real)) => encoder.encode_gauge(&real),
    }
}

/// Names and values side by side, as they are: nothing is copied for a sample.
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
    further: &'a [(&'a str, &'a str)],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let own = self.names.iter().copied().zip(self.values.iter().copied());
        own.chain(self.further.iter().copied())
            .try_for_each(|label| label.encode(encoder.encode_label()))
    }
}
