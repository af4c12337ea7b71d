//! The samples of a text exposition, read by the format's own rules and not by dtm's code.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// One line: a name, labels and a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name, `_total` included.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// Its value as the whole number that a counter or a state is.
    #[expect(clippy::cast_sign_loss, reason = "no counter is negative")]
    pub fn count(&self) -> u64 {
        self.value as u64
    }
}

/// All samples of a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Reads text format 0.0.4.
    ///
    /// # Errors
    ///
    /// Where a line is no sample and no comment.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| sample(line).with_context(|| format!("read the sample {line:?}")))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Every sample, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }

    /// All series of `name` that have these labels, whatever others they have.
    pub fn all<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &Sample, (label, value): &(&str, &str)| {
            sample.labels.get(*label).is_some_and(|known| known == value)
        };
        self.0
            .iter()
            .filter(move |sample| sample.name == name && labels.iter().all(|label| has(sample, label)))
    }

    /// The value of the one series of `name` that has these labels; none where there is no such series.
    ///
    /// # Errors
    ///
    /// Where there are several.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<u64>> {
        let mut found = self.all(name, labels);
        let first = found.next().map(Sample::count);
        if let Some(second) = found.next() {
            bail!("several series of {name} have {labels:?}, such as {second:?}");
        }
        Ok(first)
    }

    /// The value of the one series of `name` that has these labels.
    ///
    /// # Errors
    ///
    /// Where there is none, or several.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        self.find(name, labels)?
            .with_context(|| format!("no series of {name} has {labels:?}"))
    }

    /// The sum over all series of `name` that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.all(name, labels).map(Sample::count).sum()
    }
}

fn sample(line: &str) -> Result<Sample> {
    let (name, rest) = line.split_at(line.find(['{', ' ']).context("no value")?);
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").context("a label without a value")?;
            let (value, after) = unquoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: rest.trim().parse()?,
    })
}

/// The text up to the closing quote, and what follows it.
fn unquoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            other => value.push(other),
        }
    }
    bail!("a label's value does not end")
}
