//! Where dtm says traffic went: the cells of its second view, and the pairs of the matrix.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, ensure};
use xtask::host::eventually;

use crate::{
    daemon::Samples,
    scene::{PATIENCE, Scene},
};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Wire packets.
    pub packets: u64,
    /// Bytes at the hook.
    pub bytes: u64,
}

/// Which way, as the container sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Towards the container.
    Receive,
    /// From the container.
    Transmit,
}

/// One cell: the container's name, which way, scope and protocol.
pub type Cell = (String, Way, String, String);

/// One pair: source and destination.
pub type Pair = (String, String);

/// What cells and pairs have counted, or by how much they grew.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Those of the second view.
    pub cells: BTreeMap<Cell, Amount>,
    /// Those of the matrix.
    pub pairs: BTreeMap<Pair, Amount>,
}

impl fmt::Debug for Paths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((name, way, scope, protocol), Amount { packets, bytes }) in &self.cells {
            writeln!(
                formatter,
                "  {name} {way:?} {scope}/{protocol}: {packets} packets, {bytes} bytes"
            )?;
        }
        for ((source, destination), Amount { packets, bytes }) in &self.pairs {
            writeln!(
                formatter,
                "  {source} -> {destination}: {packets} packets, {bytes} bytes"
            )?;
        }
        Ok(())
    }
}

impl Paths {
    /// What a scrape shows.
    pub fn of(samples: &Samples) -> Self {
        let mut paths = Self::default();
        for sample in samples.iter() {
            let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
            let amount = if let Some(rest) = sample.name.strip_prefix("dtm_container_traffic_") {
                let way = if rest.starts_with("receive") {
                    Way::Receive
                } else {
                    Way::Transmit
                };
                let cell = (label("name"), way, label("scope"), label("protocol"));
                paths.cells.entry(cell).or_default()
            } else if sample.name.starts_with("dtm_flow_") && sample.name.ends_with("_total") {
                let pair = (label("source"), label("destination"));
                paths.pairs.entry(pair).or_default()
            } else {
                continue;
            };
            if sample.name.contains("_bytes") {
                amount.bytes += sample.count();
            } else {
                amount.packets += sample.count();
            }
        }
        paths
    }

    /// By how much it grew since an earlier one; what did not is left out.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cells: grown(&self.cells, &earlier.cells),
            pairs: grown(&self.pairs, &earlier.pairs),
        }
    }

    /// The same, and this in a cell as well.
    #[must_use]
    pub fn cell(mut self, name: &str, way: Way, (scope, protocol): (&str, &str), amount: Amount) -> Self {
        let cell = (name.to_owned(), way, scope.to_owned(), protocol.to_owned());
        add(self.cells.entry(cell).or_default(), amount);
        self
    }

    /// The same, and this in a pair as well.
    #[must_use]
    pub fn pair(mut self, source: &str, destination: &str, amount: Amount) -> Self {
        let pair = (source.to_owned(), destination.to_owned());
        add(self.pairs.entry(pair).or_default(), amount);
        self
    }

    /// All cells of one way together.
    pub fn sum(&self, way: Way) -> Amount {
        let of_way = self.cells.iter().filter(|((_, each, _, _), _)| *each == way);
        total(of_way.map(|(_cell, amount)| *amount))
    }

    /// Without what containers and their kernels say to find each other: what is neither TCP nor UDP.
    #[must_use]
    pub fn without_chatter(mut self) -> Self {
        self.cells
            .retain(|(_, _, _, protocol), _amount| protocol == "tcp" || protocol == "udp");
        let is_chatter = |name: &str| matches!(name, "@other" | "@multicast");
        self.pairs
            .retain(|(source, destination), _amount| !is_chatter(source) && !is_chatter(destination));
        self
    }

    /// All pairs together.
    pub fn matrix(&self) -> Amount {
        total(self.pairs.values().copied())
    }
}

fn add(sum: &mut Amount, other: Amount) {
    sum.packets += other.packets;
    sum.bytes += other.bytes;
}

fn total(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::default(), |mut sum, amount| {
        add(&mut sum, amount);
        sum
    })
}

fn grown<K: Clone + Ord>(after: &BTreeMap<K, Amount>, before: &BTreeMap<K, Amount>) -> BTreeMap<K, Amount> {
    let growth = |(key, after): (&K, &Amount)| {
        let before = before.get(key).copied().unwrap_or_default();
        let amount = Amount {
            packets: after.packets.wrapping_sub(before.packets),
            bytes: after.bytes.wrapping_sub(before.bytes),
        };
        (amount != Amount::default()).then(|| (key.clone(), amount))
    };
    after.iter().filter_map(growth).collect()
}

/// What dtm shows of a part at a moment at which nothing of it moves.
pub fn at_rest(scene: &Scene, part: impl Fn(Paths) -> Paths) -> Result<Paths> {
    eventually(PATIENCE, "everything rests", || {
        let first = part(Paths::of(&scene.samples()?));
        Ok((part(Paths::of(&scene.samples()?)) == first).then_some(first))
    })
}

/// Holds all scopes and protocols together to being all networks together, since the beginning: packets and bytes.
pub fn sums_agree(scene: &Scene) -> Result<()> {
    eventually(PATIENCE, "everything rests", || {
        let samples = scene.samples()?;
        let paths = Paths::of(&samples);
        let network = |direction: &str| Amount {
            packets: samples.sum(&format!("dtm_container_network_{direction}_packets_total"), &[]),
            bytes: samples.sum(&format!("dtm_container_network_{direction}_bytes_total"), &[]),
        };
        let sums = [network("receive"), network("transmit")];
        Ok(([paths.sum(Way::Receive), paths.sum(Way::Transmit)] == sums).then_some(()))
    })
}

/// Holds dtm to saying that `act` moved exactly this, and nothing anywhere else.
pub fn moves(scene: &Scene, what: &str, act: impl FnOnce() -> Result<()>, expected: &Paths) -> Result<()> {
    moves_of(scene, what, act, expected, |paths| paths)
}

/// The same, of a part of it.
pub fn moves_of(
    scene: &Scene,
    what: &str,
    act: impl FnOnce() -> Result<()>,
    expected: &Paths,
    part: impl Fn(Paths) -> Paths,
) -> Result<()> {
    let rest = || at_rest(scene, &part);
    let before = rest()?;
    act()?;
    let mut last = Paths::default();
    let seen = eventually(PATIENCE, what, || {
        last = rest()?.since(&before);
        Ok((last == *expected).then_some(()))
    });
    ensure!(seen.is_ok(), "{what} moved\n{last:?}and not\n{expected:?}");
    Ok(())
}
