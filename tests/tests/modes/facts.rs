//! Facts that share a stage, and what they have in common.

use std::{fmt::Debug, time::Instant};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::Samples,
    scene::{PATIENCE, Scene},
    tally::{Tally, Ways},
};
use xtask::host::eventually;

pub(crate) const RECEIVED_BYTES: &str = "dtm_container_network_receive_bytes_total";
pub(crate) const SENT_BYTES: &str = "dtm_container_network_transmit_bytes_total";
pub(crate) const UNCOVERED: &str = "dtm_container_uncovered";
pub(crate) const INFO: &str = "dtm_container_info";

/// What holds on a stage, in words and in code.
pub(crate) type Fact<S> = (&'static str, fn(&S) -> Result<()>);

/// Tests all facts, one after the other on one stage, and tells of each that does not hold.
pub(crate) fn hold<S>(stage: &S, facts: &[Fact<S>]) -> Result<()> {
    let mut broken = Vec::new();
    for (fact, test) in facts {
        if let Err(error) = holds(fact, || test(stage)) {
            println!("    {error:#}");
            broken.push(format!("{error:#}"));
        }
    }
    ensure!(
        broken.is_empty(),
        "{} of {} facts do not hold:\n{}",
        broken.len(),
        facts.len(),
        broken.join("\n")
    );
    Ok(())
}

/// Tests one fact, and says how that went.
pub(crate) fn holds(fact: &str, test: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let result = test();
    let verdict = if result.is_ok() { "holds" } else { "DOES NOT HOLD" };
    println!("{fact}: {verdict} ({:.1} s)", start.elapsed().as_secs_f64());
    result.with_context(|| fact.to_owned())
}

/// Holds what was counted to what is true.
#[expect(clippy::needless_pass_by_value, reason = "it reads as assert_eq does")]
pub(crate) fn agree<T: PartialEq + Debug>(what: &str, counted: T, truth: T) -> Result<()> {
    ensure!(counted == truth, "{what}: counted {counted:?}, true is {truth:?}");
    Ok(())
}

/// Holds `counted` to nothing at all.
pub(crate) fn nothing(what: &str, counted: Ways<Tally>) -> Result<()> {
    agree(what, counted, Ways::default())
}

/// Only sent.
pub(crate) fn sent(transmit: Tally) -> Ways<Tally> {
    Ways {
        transmit,
        ..Ways::default()
    }
}

/// Only received.
pub(crate) fn received(receive: Tally) -> Ways<Tally> {
    Ways {
        receive,
        ..Ways::default()
    }
}

/// Of all series of traffic: container, network and interface, in order.
pub(crate) fn series(samples: &Samples) -> Vec<[String; 3]> {
    let labels = ["name", "network", "interface"];
    let mut all: Vec<_> = samples
        .all(SENT_BYTES, &[])
        .map(|sample| labels.map(|label| sample.labels[label].clone()))
        .collect();
    all.sort();
    all
}

/// Holds dtm to these series and no others, once nothing waits for its name any more; to seeing everything; and to
/// knowing whose everything is.
pub(crate) fn only_these_series(scene: &Scene, expected: &[[&str; 3]]) -> Result<()> {
    let samples = eventually(PATIENCE, "everything has its name", || {
        let samples = scene.samples()?;
        let pending = samples.sum("dtm_interfaces", &[("state", "pending")]);
        Ok((pending == 0).then_some(samples))
    })?;
    let mut expected: Vec<_> = expected.iter().map(|labels| labels.map(str::to_owned)).collect();
    expected.sort();
    agree("the series of containers", series(&samples), expected)?;
    let uncovered: Vec<_> = samples.all(UNCOVERED, &[]).collect();
    ensure!(uncovered.is_empty(), "not everything is seen: {uncovered:?}");
    for direction in ["receive", "transmit"] {
        let name = format!("dtm_unattributed_{direction}_packets_total");
        agree(&name, samples.sum(&name, &[]), 0)?;
    }
    Ok(())
}

/// Whether a container is known, and not said to be unseen.
pub(crate) fn is_covered(samples: &Samples, name: &str) -> bool {
    let of = [("name", name)];
    samples.all(INFO, &of).count() == 1 && samples.all(UNCOVERED, &of).count() == 0
}
