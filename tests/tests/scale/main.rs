//! As many interfaces as a large host has, and more than there is room for. Counts, not times: those are the bench's.

mod full;
mod many;
mod maps;

use std::collections::HashMap;

use anyhow::Result;
use dtm_tests::{
    crowd::{Crowd, kernel},
    scene::{Moved, PATIENCE, Scene, growth},
};
use xtask::host::eventually;

const RECEIVED: &str = "dtm_container_network_receive_bytes_total";
const TRANSMITTED: &str = "dtm_container_network_transmit_bytes_total";

/// What the kernel has counted at the host ends since `before`, and what dtm shows, by the number of the interface;
/// of the same moment, and only of interfaces that dtm shows.
fn both(
    scene: &Scene,
    crowd: &Crowd,
    before: &HashMap<String, Moved>,
) -> Result<(HashMap<usize, Moved>, HashMap<usize, Moved>)> {
    eventually(PATIENCE, "the traffic pauses", || {
        let first = kernel(scene.host())?;
        let shown = shown(scene, crowd)?;
        if kernel(scene.host())? != first {
            return Ok(None);
        }
        let grown = shown.keys().map(|number| {
            let name = format!("h{number}");
            (*number, growth(before[&name], first[&name]))
        });
        Ok(Some((grown.collect(), shown)))
    })
}

/// What dtm shows of a crowd's interfaces, by their numbers.
fn shown(scene: &Scene, crowd: &Crowd) -> Result<HashMap<usize, Moved>> {
    let samples = scene.samples()?;
    let of = [("name", &*crowd.container)];
    let mut shown = HashMap::<usize, Moved>::new();
    for (name, is_received) in [(RECEIVED, true), (TRANSMITTED, false)] {
        for sample in samples.all(name, &of) {
            // The engine's own interface of the container is `eth0`.
            let Some(number) = sample.labels["interface"].strip_prefix('c') else {
                continue;
            };
            let moved = shown.entry(number.parse()?).or_default();
            let count = sample.count();
            if is_received {
                moved.0 = count;
            } else {
                moved.1 = count;
            }
        }
    }
    Ok(shown)
}
