//! More interfaces than `--max-interfaces`: said, counted, and made good when there is room.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use dtm_tests::{
    crowd::{Crowd, kernel},
    scene::{IMAGE, PATIENCE, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::{both, shown};

/// The least that dtm takes.
const SLOTS: u64 = 64;
const CROWD: usize = 100;
const SIZE: usize = 300;

#[test]
fn without_a_slot_an_interface_waits_and_the_others_stay_exact() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::newest()?))?;
    let crowd = Crowd::new(&scene.engine, IMAGE, "crowd", 0..CROWD)?;
    let before = kernel(scene.host())?;
    scene.start_dtm(&["--max-interfaces", &SLOTS.to_string()])?;
    // Bridges that Docker knows have a slot each, like the host ends of veths; the container's own is one more.
    let bridges = bridges(&scene)?;
    let refused = (CROWD + 1) as u64 + bridges - SLOTS;
    wait_refused(&scene, refused)?;
    let samples = scene.samples()?;
    let no_slot = [("reason", "no_slot")];
    assert_eq!(samples.get("dtm_attach_errors_total", &no_slot)?, refused);
    for name in ["dtm_bpf_map_entries", "dtm_bpf_map_max_entries"] {
        assert_eq!(samples.get(name, &[("map", "counters")])?, SLOTS, "{name}");
    }
    let first = exact(&scene, &crowd, &before)?;
    assert!(first.len() < CROWD, "{} are counted", first.len());
    let said = scene.dtm()?.log().matches("raise --max-interfaces").count();
    assert_eq!(said, 1, "said once, not for each: {}", scene.dtm()?.log());

    // Ten make room for ten.
    let gone: Vec<usize> = first.iter().copied().take(10).collect();
    for number in &gone {
        crowd.remove(scene.host(), *number..number + 1)?;
    }
    wait_refused(&scene, refused - 10)?;
    let left = |shown: &BTreeSet<usize>| -> BTreeSet<usize> {
        shown
            .iter()
            .copied()
            .filter(|number| !gone.contains(number))
            .collect()
    };
    let second = eventually(PATIENCE, "ten others are named", || {
        let now: BTreeSet<usize> = shown(&scene, &crowd)?.into_keys().collect();
        // A bridge may have been among those that waited.
        let added = left(&now).difference(&first).count() as u64;
        let new_bridges = scene.samples()?.sum("dtm_interfaces", &[("state", "bridge")]);
        Ok((added + new_bridges >= 10).then_some(now))
    })?;
    assert!(left(&second).is_superset(&left(&first)));

    // Room for all.
    for number in left(&second).into_iter().take(refused as usize) {
        crowd.remove(scene.host(), number..number + 1)?;
    }
    wait_refused(&scene, 0)?;
    let samples = scene.samples()?;
    assert_eq!(
        samples.get("dtm_attach_errors_total", &no_slot)?,
        refused,
        "each was refused once, however often it was tried"
    );
    assert_eq!(samples.sum("dtm_bpf_map_update_errors_total", &[]), 0);
    Ok(())
}

/// Lets every interface of the crowd send and compares the counts of those that dtm shows; which these are.
fn exact(
    scene: &Scene,
    crowd: &Crowd,
    before: &std::collections::HashMap<String, (u64, u64)>,
) -> Result<BTreeSet<usize>> {
    for number in crowd.numbers.clone() {
        crowd.send(scene.host(), number, 1 + number, SIZE)?;
    }
    let (grown, counted) = both(scene, crowd, before)?;
    assert_eq!(counted, grown);
    for (number, (_received, sent)) in &counted {
        assert_eq!(*sent, ((1 + number) * SIZE) as u64);
    }
    Ok(counted.into_keys().collect())
}

fn wait_refused(scene: &Scene, refused: u64) -> Result<()> {
    eventually(PATIENCE, &format!("{refused} are refused"), || {
        let samples = scene.samples()?;
        let waiting = samples.get("dtm_interfaces", &[("state", "refused"), ("mode", "none")])?;
        let pending = samples.sum("dtm_interfaces", &[("state", "pending")]);
        Ok((waiting == refused && pending == 0).then_some(()))
    })
    .with_context(|| scene.dtm().map(dtm_tests::daemon::Dtm::log).unwrap_or_default())
}

/// How many of the engine's networks have a bridge.
fn bridges(scene: &Scene) -> Result<u64> {
    let listed = scene
        .engine
        .docker(["network", "ls", "--quiet", "--filter", "driver=bridge"])?;
    Ok(listed.lines().count() as u64)
}
