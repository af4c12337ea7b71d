//! What happens while dtm does not hear Docker.

use std::path::Path;

use anyhow::{Context as _, Result};
use dtm_tests::{
    known::{
        LINGER, PAYLOAD, RECEIVED_BYTES, gauges, goes_on, has_sent, id_of, port_of, run, send, sent, stage,
        wait_docker, wait_gone, wait_state,
    },
    scene::{IMAGE, PATIENCE, SILENT, Scene},
    watch::Watch,
};
use rustix::process::{Pid, Signal, kill_process};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::line::Line;

/// The engine's events were not heard for a while: everything is right again once they are, and nothing is doubled.
fn what_happens_unheard_is_made_up_for(kind: EngineKind, mode: &str) -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    scene.make_silent_network()?;
    let mut line = Line::lay(&scene)?;
    scene.start_dtm(&[
        "--attach-mode",
        mode,
        "--linger",
        LINGER,
        "--docker.host",
        &line.address(),
    ])?;
    let watch = Watch::start(&scene)?;
    let docker = |arguments: &[&str]| scene.engine.docker(arguments).map(drop);
    scene.run("receiver", SILENT, &["traffic", "udp-receive", "5002"])?;
    let to = port_of(&scene, "receiver", SILENT)?;
    let mut ids = Vec::new();
    for name in ["stays", "goes", "stops", "again"] {
        scene.run(name, SILENT, &["sleep", "3600"])?;
        send(&scene, name, &to, 100)?;
        ids.push(id_of(&scene, name)?);
        has_sent(&scene, &ids[ids.len() - 1], 100)?;
    }
    let [stays, goes, stops, again] = ids.try_into().ok().context("four containers")?;
    let before = scene.kernel(&scene.endpoint("again", SILENT)?)?;
    let (of_goes, of_stops) = (sent(&scene, &goes)?, sent(&scene, &stops)?);
    line.cut()?;
    wait_docker(&scene, 0)?;

    docker(&["rename", "stays", "stayed"])?;
    send(&scene, "stayed", &to, 100)?;
    has_sent(&scene, &stays, 200)?;
    docker(&["rm", "--force", "goes"])?;
    docker(&["stop", "--time", "0", "stops"])?;
    docker(&["restart", "--time", "0", "again"])?;
    send(&scene, "again", &to, 100)?;
    scene.run("born", SILENT, &["sleep", "3600"])?;
    send(&scene, "born", &to, 100)?;
    let script = format!("traffic udp-send {to} 100 {PAYLOAD}");
    run(&scene, "died", &[], &script)?;
    docker(&["wait", "died"])?;
    let whole = [
        "run",
        "--detach",
        "--rm",
        "--name",
        "brief",
        "--network",
        SILENT,
        IMAGE,
        "sh",
        "-c",
        &script,
    ];
    let brief = scene.engine.docker(whole)?;
    eventually(PATIENCE, "its life is over", || {
        Ok(scene.engine.docker(["inspect", &brief]).is_err().then_some(()))
    })?;
    // What dtm knows goes on, what it does not know has no name.
    assert_eq!((sent(&scene, &goes)?, sent(&scene, &stops)?), (of_goes, of_stops));
    let (born, died) = (id_of(&scene, "born")?, id_of(&scene, "died")?);
    assert_eq!((sent(&scene, &born)?, sent(&scene, &died)?), (None, None));

    line.mend()?;
    wait_docker(&scene, 1)?;
    has_sent(&scene, &stays, 200)?;
    let of_stays = [("container_id", stays.as_str()), ("name", "stayed")];
    assert_eq!(scene.samples()?.all(RECEIVED_BYTES, &of_stays).count(), 1);
    for gone in [&goes, &stops] {
        assert_eq!(gauges(&scene, gone)?, 0, "gauges go at once");
    }
    for whole in [&born, &died, &brief[..12].to_owned()] {
        has_sent(&scene, whole, 100)?;
    }
    has_sent(&scene, &again, 200)?;
    goes_on(&scene, &again, &scene.endpoint("again", SILENT)?, before)?;
    for ended in [&goes, &stops, &died, &brief[..12].to_owned()] {
        wait_gone(&scene, ended)?;
    }
    wait_state(&scene, "exited", 2)?;
    docker(&["start", "stops"])?;
    send(&scene, "stops", &to, 100)?;
    has_sent(&scene, &stops, 200)?;
    let samples = scene.samples()?;
    assert_eq!(samples.sum("dtm_interfaces", &[("state", "pending")]), 0);
    assert_eq!(samples.sum("dtm_unattributed_transmit_bytes_total", &[]), 0);
    watch.finish()
}

#[test]
fn what_happens_unheard_is_made_up_for_on_the_old_engine_with_tcx() -> Result<()> {
    what_happens_unheard_is_made_up_for(EngineKind::Old, "tcx")
}

#[test]
fn what_happens_unheard_is_made_up_for_on_the_current_engine_with_clsact() -> Result<()> {
    what_happens_unheard_is_made_up_for(EngineKind::Current, "clsact")
}

/// The first process of a container.
fn process_of(scene: &Scene, container: &str) -> Result<Pid> {
    let process = scene
        .engine
        .docker(["inspect", "--format", "{{.State.Pid}}", container])?;
    Pid::from_raw(process.parse()?).context("a running container has a process")
}

/// Containers end while there is no engine, and one of them is not even known to the next.
fn what_ends_without_an_engine_ends(kind: EngineKind, mode: &str) -> Result<()> {
    let options = EngineOptions {
        live_restore: true,
        ..EngineOptions::new(kind)
    };
    let (mut scene, watch) = stage(options, mode)?;
    let to = port_of(&scene, "receiver", SILENT)?;
    let mut ids = Vec::new();
    for name in ["stays", "ends", "vanishes"] {
        scene.run(name, SILENT, &["sleep", "3600"])?;
        send(&scene, name, &to, 100)?;
        ids.push(id_of(&scene, name)?);
        has_sent(&scene, &ids[ids.len() - 1], 100)?;
    }
    let [stays, ends, vanishes] = ids.try_into().ok().context("three containers")?;
    let (of_ends, of_vanishes) = (sent(&scene, &ends)?, sent(&scene, &vanishes)?);
    let full = scene
        .engine
        .docker(["inspect", "--format", "{{.Id}}", "vanishes"])?;
    let processes = [process_of(&scene, "ends")?, process_of(&scene, "vanishes")?];
    scene.engine.kill()?;
    wait_docker(&scene, 0)?;
    for process in processes {
        kill_process(process, Signal::KILL)?;
        let directory = format!("/proc/{}", process.as_raw_nonzero());
        eventually(PATIENCE, "its end", || {
            let status = std::fs::read_to_string(Path::new(&directory).join("status")).unwrap_or_default();
            Ok((status.is_empty() || status.contains("State:\tZ")).then_some(()))
        })?;
    }
    std::fs::remove_dir_all(scene.host().directory().join("data/containers").join(full))?;
    assert_eq!(
        (sent(&scene, &ends)?, sent(&scene, &vanishes)?),
        (of_ends, of_vanishes)
    );
    scene.engine.start_again()?;
    wait_docker(&scene, 1)?;
    wait_state(&scene, "exited", 1)?;
    for gone in [&ends, &vanishes] {
        assert_eq!(gauges(&scene, gone)?, 0);
    }
    for gone in [&ends, &vanishes] {
        wait_gone(&scene, gone)?;
    }
    send(&scene, "stays", &to, 100)?;
    has_sent(&scene, &stays, 200)?;
    scene.engine.docker(["start", "ends"])?;
    send(&scene, "ends", &to, 100)?;
    has_sent(&scene, &ends, 200)?;
    let samples = scene.samples()?;
    assert_eq!(samples.sum("dtm_interfaces", &[("state", "pending")]), 0);
    assert_eq!(samples.sum("dtm_unattributed_transmit_bytes_total", &[]), 0);
    watch.finish()
}

#[test]
fn what_ends_without_an_engine_ends_with_the_old_one_and_clsact() -> Result<()> {
    what_ends_without_an_engine_ends(EngineKind::Old, "clsact")
}

#[test]
fn what_ends_without_an_engine_ends_with_the_current_one_and_tcx() -> Result<()> {
    what_ends_without_an_engine_ends(EngineKind::Current, "tcx")
}
