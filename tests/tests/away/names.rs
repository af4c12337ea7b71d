//! Names that are there before Docker has said anything.

use std::fs;

use anyhow::{Context as _, Result};
use dtm_tests::{
    far::traffic,
    known::{PAYLOAD, SENT_BYTES, goes_on, has_sent, wait_docker, wait_gone},
    scene::PATIENCE,
};
use rustix::process::{Pid, Signal, kill_process};
use xtask::host::{Engine, EngineKind, Network, eventually};

use crate::stage::Stage;

/// An engine that takes calls and answers none, until this is dropped.
struct Hung(Pid);

impl Hung {
    fn new(engine: &Engine) -> Result<Self> {
        let id = engine.id().context("the engine runs")?;
        let hung = Self(Pid::from_raw(i32::try_from(id)?).context("a process id")?);
        kill_process(hung.0, Signal::STOP).context("stop the engine where it is")?;
        eventually(PATIENCE, "the engine hangs", || {
            let status = fs::read_to_string(format!("/proc/{id}/status")).context("read its status")?;
            Ok(status.contains("State:\tT").then_some(()))
        })?;
        Ok(hung)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        if let Err(error) = kill_process(self.0, Signal::CONT) {
            eprintln!("let the engine go on: {error}");
        }
    }
}

fn names_are_there_before_docker_answers(kind: EngineKind, mode: &'static str) -> Result<()> {
    let mut stage = Stage::new(kind, mode)?;
    let (stays, ends) = (stage.sender("stays", 100)?, stage.sender("ends", 100)?);
    let endpoints = [stage.endpoint("stays")?, stage.endpoint("receiver")?];
    let process = ["inspect", "--format", "{{.State.Pid}}", "stays"];
    let process = stage.scene.engine.docker(process)?.parse()?;
    stage.scene.kill_dtm()?;
    stage.send("stays", 50)?;
    stage.send("ends", 50)?;
    stage.remove("ends")?;

    let hung = Hung::new(&stage.scene.engine)?;
    let arguments = stage.arguments();
    stage.scene.start_unheard_dtm(&arguments)?;
    let shown = eventually(PATIENCE, "all are named", || {
        let samples = stage.scene.samples()?;
        let is_named = |name| samples.all(SENT_BYTES, &[("name", name)]).count() == 1;
        let all = ["stays", "ends", "receiver"].into_iter().all(is_named);
        Ok(all.then_some(samples))
    })?;
    assert_eq!(shown.get("dtm_docker_up", &[])?, 0, "Docker has not answered");
    has_sent(&stage.scene, &ends, 150)?;
    has_sent(&stage.scene, &stays, 150)?;
    goes_on(&stage.scene, &stays, &endpoints[0], (0, 0))?;
    for endpoint in &endpoints {
        let (kernel, counted) = stage.scene.both(endpoint)?;
        assert_eq!(counted, kernel, "{endpoint:?}");
    }
    // They go on before it does.
    let send = ["udp-send", &stage.to, "30", &PAYLOAD.to_string()];
    Network::of_process(process)?.run(traffic()?, send)?;
    has_sent(&stage.scene, &stays, 180)?;
    assert_eq!(
        stage.scene.samples()?.get("dtm_docker_up", &[])?,
        0,
        "it still has not"
    );

    drop(hung);
    wait_docker(&stage.scene, 1)?;
    has_sent(&stage.scene, &ends, 150)?;
    has_sent(&stage.scene, &stays, 180)?;
    goes_on(&stage.scene, &stays, &endpoints[0], (0, 0))?;
    wait_gone(&stage.scene, &ends)?;
    stage.finish().map(drop)
}

#[test]
fn names_are_there_before_the_old_engine_answers() -> Result<()> {
    names_are_there_before_docker_answers(EngineKind::Old, "clsact")
}

#[test]
fn names_are_there_before_the_current_engine_answers() -> Result<()> {
    names_are_there_before_docker_answers(EngineKind::Current, "tcx")
}
