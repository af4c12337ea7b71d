//! What containers lose while something happens.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::scene::{PATIENCE, Scene};
use xtask::host::{Network, eventually};

/// Packets by container, direction and reason.
pub(crate) type Lost = BTreeMap<(String, String, String), u64>;

/// One loss.
pub(crate) fn lost(container: &str, direction: &str, reason: &str, packets: u64) -> Lost {
    let key = (container.to_owned(), direction.to_owned(), reason.to_owned());
    BTreeMap::from([(key, packets)])
}

fn read(scene: &Scene) -> Result<Lost> {
    let samples = scene.samples()?;
    let all = samples.all("dtm_container_network_dropped_packets_total", &[]);
    Ok(all
        .map(|sample| {
            let label = |name: &str| sample.labels[name].clone();
            (
                (label("name"), label("direction"), label("reason")),
                sample.count(),
            )
        })
        .collect())
}

/// Holds what all containers lose during `action` to what that says they do: to the packet, and nothing else.
pub(crate) fn loses(scene: &Scene, what: &str, action: impl FnOnce() -> Result<Lost>) -> Result<()> {
    let before = read(scene)?;
    let expected = action().with_context(|| what.to_owned())?;
    let mut grown = Lost::new();
    let waited = eventually(PATIENCE, what, || {
        grown = read(scene)?;
        for (key, count) in &mut grown {
            *count -= before.get(key).copied().unwrap_or(0);
        }
        grown.retain(|_key, count| *count > 0);
        Ok((grown == expected).then_some(()))
    });
    ensure!(
        waited.is_ok(),
        "{what}: lost {grown:?}, and it should be {expected:?}"
    );
    Ok(())
}

/// Packets that the queue at an interface has thrown away.
pub(crate) fn queue_drops(network: &Network, interface: &str) -> Result<u64> {
    let shown = network.run("tc", ["-s", "qdisc", "show", "dev", interface, "root"])?;
    let count = shown
        .split_whitespace()
        .skip_while(|word| *word != "(dropped")
        .nth(1);
    Ok(count.context("a count of drops")?.trim_end_matches(',').parse()?)
}

/// Makes a queue at an interface that soon is full.
pub(crate) fn make_short_queue(network: &Network, interface: &str) -> Result<()> {
    let queue = ["tbf", "rate", "1mbit", "burst", "2000", "limit", "3000"];
    let add = ["qdisc", "add", "dev", interface, "root"];
    network.run("tc", add.iter().chain(&queue)).map(drop)
}
