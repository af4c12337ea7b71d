//! dtm as a container: one that is removed, and one that is stopped, leaves what it has attached to the next.

use anyhow::Result;
use dtm_tests::{
    attached,
    contained::{make_image, run_command},
    known::{goes_on, has_sent, id_of, port_of, send},
    scene::{PATIENCE, SILENT, Scene},
    watch::Watch,
};
use xtask::host::{EngineKind, EngineOptions, eventually};

/// What the README calls it.
const DTM: &str = "dtm";

fn start(scene: &mut Scene) -> Result<()> {
    let words = run_command(&scene.engine, &[])?;
    scene.start_dtm_contained(&words)
}

/// Has its container go as these words after `docker` say, and waits until it has.
fn end(scene: &mut Scene, words: &[&str]) -> Result<()> {
    scene.engine.docker(words)?;
    eventually(PATIENCE, "its container has gone", || {
        Ok(scene.engine.docker(["inspect", DTM]).is_err().then_some(()))
    })?;
    // The client that has started it ends by itself.
    scene.kill_dtm()
}

fn a_container_is_taken_over_by_the_next(kind: EngineKind) -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    scene.make_silent_network()?;
    make_image(&scene.engine)?;
    start(&mut scene)?;
    let watch = Watch::through_restarts(&scene)?;
    scene.run("receiver", SILENT, &["traffic", "udp-receive", "5002"])?;
    scene.run("sender", SILENT, &["sleep", "3600"])?;
    let to = port_of(&scene, "receiver", SILENT)?;
    let id = id_of(&scene, "sender")?;
    let endpoint = scene.endpoint("sender", SILENT)?;
    send(&scene, "sender", &to, 100)?;
    has_sent(&scene, &id, 100)?;
    let mut datagrams = 100;
    let holders = attached::holders(scene.host())?;
    for words in [&["rm", "--force", DTM][..], &["stop", "--time", "10", DTM]] {
        end(&mut scene, words)?;
        send(&scene, "sender", &to, 50)?;
        datagrams += 50;
        start(&mut scene)?;
        has_sent(&scene, &id, datagrams)?;
        goes_on(&scene, &id, &endpoint, (0, 0))?;
        assert_eq!(attached::holders(scene.host())?, holders, "after {words:?}");
    }
    watch.finish()
}

#[test]
fn a_container_is_taken_over_by_the_next_on_the_old_engine() -> Result<()> {
    a_container_is_taken_over_by_the_next(EngineKind::Old)
}

#[test]
fn a_container_is_taken_over_by_the_next_on_the_current_engine() -> Result<()> {
    a_container_is_taken_over_by_the_next(EngineKind::Current)
}
