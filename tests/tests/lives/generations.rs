//! Stop, start, restart, kill, pause, crash: one container is one series over all its lives.

use anyhow::Result;
use dtm_tests::{
    known::{
        NETWORK_SENT, PAYLOAD, RECEIVED_BYTES, SENT_BYTES, gauges, goes_on, has_sent, id_of, plain_stage,
        port_of, run, sent, wait_gone, wait_state,
    },
    scene::{IMAGE, PATIENCE, SILENT, Scene},
};
use xtask::host::{EngineKind, eventually};

/// What a container sends as its first act, each time it starts.
const BIRTH: u64 = 100;

/// The script of such a container.
fn born_sending(to: &str, then: &str) -> String {
    format!("traffic udp-send {to} {BIRTH} {PAYLOAD}; {then}")
}

/// Waits until a container's gauges have gone, and holds its counters to being as they were.
fn ends_with(scene: &Scene, id: &str, totals: (u64, u64)) -> Result<()> {
    eventually(PATIENCE, "the gauges have gone", || {
        Ok((gauges(scene, id)? == 0).then_some(()))
    })?;
    assert_eq!(sent(scene, id)?, Some(totals), "final totals stay as they are");
    Ok(())
}

fn one_series_over_all_lives(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    let docker = |arguments: &[&str]| scene.engine.docker(arguments).map(drop);
    let to = port_of(&scene, "receiver", SILENT)?;
    run(&scene, "phoenix", &[], &born_sending(&to, "exec sleep 3600"))?;
    let id = id_of(&scene, "phoenix")?;
    has_sent(&scene, &id, BIRTH)?;
    eventually(PATIENCE, "all gauges are there", || {
        Ok((gauges(&scene, &id)? == 2).then_some(()))
    })?;
    let kernel =
        |earlier| -> Result<_> { goes_on(&scene, &id, &scene.endpoint("phoenix", SILENT)?, earlier) };
    let before = kernel((0, 0))?;

    // Stopped and started again before its totals have lingered.
    let totals = has_sent(&scene, &id, BIRTH)?;
    docker(&["stop", "--time", "0", "phoenix"])?;
    ends_with(&scene, &id, totals)?;
    wait_state(&scene, "exited", 1)?;
    docker(&["start", "phoenix"])?;
    has_sent(&scene, &id, 2 * BIRTH)?;
    let before = kernel(before)?;
    assert_eq!(gauges(&scene, &id)?, 2);

    docker(&["restart", "--time", "0", "phoenix"])?;
    has_sent(&scene, &id, 3 * BIRTH)?;
    let before = kernel(before)?;

    // Killed, and started again long after its totals have gone: the container is still the same, and so is its sum.
    docker(&["kill", "phoenix"])?;
    wait_gone(&scene, &id)?;
    wait_state(&scene, "exited", 1)?;
    docker(&["start", "phoenix"])?;
    has_sent(&scene, &id, 4 * BIRTH)?;
    kernel(before)?;

    // Frozen, it lives.
    docker(&["pause", "phoenix"])?;
    wait_state(&scene, "paused", 1)?;
    let totals = has_sent(&scene, &id, 4 * BIRTH)?;
    assert_eq!(gauges(&scene, &id)?, 2);
    docker(&["unpause", "phoenix"])?;
    wait_state(&scene, "paused", 0)?;
    assert_eq!(sent(&scene, &id)?, Some(totals));

    // Made again under its name: another id, another series, both side by side until the first has lingered.
    docker(&["rm", "--force", "phoenix"])?;
    run(&scene, "phoenix", &[], &born_sending(&to, "exec sleep 3600"))?;
    let young = id_of(&scene, "phoenix")?;
    ends_with(&scene, &id, totals)?;
    has_sent(&scene, &young, BIRTH)?;
    let both = scene.samples()?.all(SENT_BYTES, &[("name", "phoenix")]).count();
    assert_eq!(both, 2);
    wait_gone(&scene, &id)?;
    let (_packets, of_young) = has_sent(&scene, &young, BIRTH)?;

    // The network has all of it.
    let receiver = [("name", "receiver"), ("network", SILENT)];
    let samples = scene.samples()?;
    assert_eq!(
        samples.get(NETWORK_SENT, &[("network", SILENT)])?,
        totals.1 + of_young + samples.get(SENT_BYTES, &receiver)?
    );
    assert_eq!(samples.sum("dtm_unattributed_transmit_bytes_total", &[]), 0);
    watch.finish()
}

#[test]
fn one_series_over_all_lives_on_the_old_engine_with_tcx() -> Result<()> {
    one_series_over_all_lives(EngineKind::Old, "tcx")
}

#[test]
fn one_series_over_all_lives_on_the_old_engine_with_clsact() -> Result<()> {
    one_series_over_all_lives(EngineKind::Old, "clsact")
}

#[test]
fn one_series_over_all_lives_on_the_current_engine_with_tcx() -> Result<()> {
    one_series_over_all_lives(EngineKind::Current, "tcx")
}

#[test]
fn one_series_over_all_lives_on_the_current_engine_with_clsact() -> Result<()> {
    one_series_over_all_lives(EngineKind::Current, "clsact")
}

/// How often the engine starts it again.
const RETRIES: u64 = 4;

/// The engine's own restarts: a container that crashes again and again, and one whose program cannot even start.
fn crashes_are_one_series_and_failures_none(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    let to = port_of(&scene, "receiver", SILENT)?;
    let policy = format!("--restart=on-failure:{RETRIES}");
    run(&scene, "crasher", &[&policy], &born_sending(&to, "exit 1"))?;
    let id = id_of(&scene, "crasher")?;
    // Between two of its lives the engine calls it restarting, and it lives on.
    wait_state(&scene, "restarting", 1)?;
    eventually(PATIENCE, "it waits for its next life", || {
        let samples = scene.samples()?;
        let waits = samples.get("dtm_containers", &[("state", "restarting")])? == 1;
        let is_there = samples
            .all("dtm_container_info", &[("container_id", &id)])
            .count();
        Ok((waits && is_there == 1).then_some(()))
    })?;
    let totals = has_sent(&scene, &id, (RETRIES + 1) * BIRTH)?;
    wait_state(&scene, "exited", 1)?;
    ends_with(&scene, &id, totals)?;
    assert_eq!(
        scene
            .samples()?
            .all(RECEIVED_BYTES, &[("name", "crasher")])
            .count(),
        1
    );
    wait_gone(&scene, &id)?;

    let in_use = || -> Result<u64> {
        let samples = scene.samples()?;
        let interfaces = samples.sum("dtm_interfaces", &[]);
        let slots = samples.get("dtm_bpf_map_entries", &[("map", "counters")])?;
        assert!(slots >= interfaces, "{slots} slots for {interfaces} interfaces");
        Ok(slots)
    };
    let before = in_use()?;
    let bad = [
        "run",
        "--detach",
        "--name",
        "bad",
        "--network",
        SILENT,
        IMAGE,
        "/no/such/program",
    ];
    assert!(scene.engine.docker(bad).is_err(), "there is no such program");
    let bad = id_of(&scene, "bad")?;
    let state = scene
        .engine
        .docker(["inspect", "--format", "{{.State.Status}}", "bad"])?;
    wait_state(&scene, &state, if state == "exited" { 2 } else { 1 })?;
    assert_eq!(gauges(&scene, &bad)?, 0);
    wait_gone(&scene, &bad)?;
    eventually(PATIENCE, "nothing is left of its interface", || {
        Ok((in_use()? == before).then_some(()))
    })?;
    scene.engine.docker(["rm", "bad"])?;
    let samples = scene.samples()?;
    assert_eq!(samples.sum("dtm_interfaces", &[("state", "pending")]), 0);
    assert_eq!(samples.sum("dtm_unattributed_transmit_bytes_total", &[]), 0);
    assert_eq!(samples.sum("dtm_unattributed_receive_bytes_total", &[]), 0);
    watch.finish()
}

#[test]
fn crashes_are_one_series_and_failures_none_on_the_old_engine_with_clsact() -> Result<()> {
    crashes_are_one_series_and_failures_none(EngineKind::Old, "clsact")
}

#[test]
fn crashes_are_one_series_and_failures_none_on_the_current_engine_with_tcx() -> Result<()> {
    crashes_are_one_series_and_failures_none(EngineKind::Current, "tcx")
}
