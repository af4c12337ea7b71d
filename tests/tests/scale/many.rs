//! Thousands of interfaces: all attached, all named, every byte counted, and all gone at once.

use std::collections::HashMap;

use anyhow::Result;
use dtm_tests::{
    crowd::{Crowd, PORTS, kernel},
    scene::{IMAGE, PATIENCE, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::{RECEIVED, both, shown};

/// More than 4,096, whatever else is there.
const MANY: usize = 4_100;
const SIZE: usize = 200;
/// Every so many interfaces one sends.
const SENDERS: usize = 83;

/// Frames an interface sends to its bridge.
fn sent(number: usize) -> usize {
    if number.is_multiple_of(SENDERS) {
        1 + number / SENDERS
    } else {
        0
    }
}

#[test]
fn four_thousand_interfaces_that_exist_at_the_start_are_counted_to_the_byte() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::Current))?;
    let mut crowds = Vec::new();
    for start in (0..MANY).step_by(PORTS) {
        let name = format!("crowd{start}");
        let numbers = start..MANY.min(start + PORTS);
        crowds.push(Crowd::new(&scene.engine, IMAGE, &name, numbers)?);
    }
    let before = kernel(scene.host())?;
    scene.start_dtm(&[])?;
    // The container's own interface is one more.
    let interfaces = (MANY + crowds.len()) as u64;
    eventually(PATIENCE, "all are named", || {
        let named = scene.samples()?.sum("dtm_interfaces", &[("state", "named")]);
        Ok((named == interfaces).then_some(()))
    })?;
    let samples = scene.samples()?;
    // Nobody waits for thousands of RCU grace periods: what exists is attached with clsact.
    let clsact = [("state", "named"), ("mode", "clsact")];
    assert_eq!(samples.get("dtm_interfaces", &clsact)?, interfaces);
    for state in ["pending", "failed", "refused"] {
        assert_eq!(samples.sum("dtm_interfaces", &[("state", state)]), 0, "{state}");
    }
    for name in [
        "dtm_attach_errors_total",
        "dtm_bpf_map_update_errors_total",
        "dtm_events_lost_total",
    ] {
        assert_eq!(samples.sum(name, &[]), 0, "{name}");
    }
    for crowd in &crowds {
        // The first of each speaks to all others.
        crowd.broadcast(scene.host(), crowd.numbers.start, 3, SIZE)?;
        for number in crowd.numbers.clone().filter(|number| sent(*number) > 0) {
            crowd.send(scene.host(), number, sent(number), SIZE)?;
        }
    }
    let mut totals = HashMap::new();
    for crowd in &crowds {
        let (grown, counted) = both(&scene, crowd, &before)?;
        assert_eq!(counted.len(), crowd.numbers.len());
        for number in crowd.numbers.clone() {
            let is_first = number == crowd.numbers.start;
            let (heard, spoken) = if is_first { (0, 3) } else { (3, 0) };
            let expected = ((heard * SIZE) as u64, ((spoken + sent(number)) * SIZE) as u64);
            assert_eq!(grown[&number], expected, "the kernel's count of {number}");
            assert_eq!(counted[&number], expected, "dtm's count of {number}");
        }
        totals.insert(crowd.container.clone(), counted);
    }
    let samples = scene.samples()?;
    let sums: Vec<u64> = crowds.iter().map(|crowd| sum_of(&samples, crowd)).collect();

    // All at once.
    let containers = crowds.iter().map(|crowd| &*crowd.container);
    scene.engine.docker(["kill"].into_iter().chain(containers))?;
    eventually(PATIENCE, "all are gone", || {
        let samples = scene.samples()?;
        let left = samples.sum("dtm_interfaces", &[("state", "named")]);
        // What is left are bridges, each with a slot.
        let bridges = samples.sum("dtm_interfaces", &[("state", "bridge")]);
        let slots = samples.get("dtm_bpf_map_entries", &[("map", "counters")])?;
        Ok((left == 0 && slots == bridges).then_some(()))
    })?;
    let samples = scene.samples()?;
    for (crowd, sum) in crowds.iter().zip(sums) {
        assert_eq!(
            shown(&scene, crowd)?,
            totals[&crowd.container],
            "final totals linger"
        );
        assert_eq!(sum_of(&samples, crowd), sum, "the network's sum stays");
    }
    assert_eq!(samples.sum("dtm_interfaces", &[("state", "failed")]), 0);
    for name in [
        "dtm_bpf_map_update_errors_total",
        "dtm_unattributed_receive_bytes_total",
    ] {
        assert_eq!(samples.sum(name, &[]), 0, "{name}");
    }
    Ok(())
}

/// What all containers of a crowd's network have received.
fn sum_of(samples: &dtm_tests::daemon::Samples, crowd: &Crowd) -> u64 {
    samples.sum(
        "dtm_network_containers_receive_bytes_total",
        &[("network", &crowd.network)],
    )
}

#[test]
fn hundreds_of_interfaces_born_under_a_running_dtm_are_counted_until_half_of_them_go() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::Old))?;
    scene.start_dtm(&["--attach-mode", "clsact"])?;
    let crowd = Crowd::new(&scene.engine, IMAGE, "crowd", 0..PORTS)?;
    eventually(PATIENCE, "all are named", || {
        let all = scene.samples()?.all(RECEIVED, &[("name", "crowd")]).count();
        Ok((all == PORTS + 1).then_some(()))
    })?;
    crowd.broadcast(scene.host(), 0, 5, SIZE)?;
    // Nobody spoke before dtm had attached: since its birth is since the attach.
    let nothing = (0..PORTS).map(|number| (format!("h{number}"), (0, 0))).collect();
    let (grown, counted) = both(&scene, &crowd, &nothing)?;
    assert_eq!(counted, grown);
    let five = 5 * SIZE as u64;
    assert_eq!((counted[&0], counted[&1]), ((0, five), (five, 0)));
    let sum = sum_of(&scene.samples()?, &crowd);
    crowd.remove(scene.host(), 0..PORTS / 2)?;
    eventually(PATIENCE, "half of them are gone", || {
        let named = scene.samples()?.sum("dtm_interfaces", &[("state", "named")]);
        Ok((named == (PORTS / 2 + 1) as u64).then_some(()))
    })?;
    crowd.broadcast(scene.host(), PORTS - 1, 2, SIZE)?;
    // The one that sends does not hear itself; the container's own interface and the other half do.
    let more = (PORTS / 2 * 2 * SIZE) as u64;
    eventually(PATIENCE, "those that are left go on", || {
        Ok((sum_of(&scene.samples()?, &crowd) == sum + more).then_some(()))
    })?;
    let after = shown(&scene, &crowd)?;
    assert!((0..PORTS / 2).all(|number| after[&number] == counted[&number]));
    let two = 2 * SIZE as u64;
    assert!((PORTS / 2..PORTS - 1).all(|number| after[&number] == (five + two, 0)));
    assert_eq!(after[&(PORTS - 1)], (five, two));
    assert_eq!(scene.samples()?.sum("dtm_events_lost_total", &[]), 0);
    Ok(())
}
