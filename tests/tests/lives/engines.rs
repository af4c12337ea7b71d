//! The engine may stop and start: what it left running goes on being counted, and names come back.

use anyhow::Result;
use xtask::host::{EngineKind, EngineOptions, eventually};

use dtm_tests::scene::{FRONT, PATIENCE, Scene, growth};

/// Waits until dtm says that Docker answers, or that it does not.
fn wait_docker(scene: &Scene, up: u64) -> Result<()> {
    eventually(PATIENCE, &format!("dtm_docker_up is {up}"), || {
        Ok((scene.samples()?.get("dtm_docker_up", &[])? == up).then_some(()))
    })
}

fn nothing_is_lost_while_the_engine_restarts(kind: EngineKind) -> Result<()> {
    let options = EngineOptions {
        live_restore: true,
        ..EngineOptions::new(kind)
    };
    let mut scene = Scene::new(options)?;
    scene.start_dtm(&[])?;
    scene.run("receiver", FRONT, &["traffic", "udp-receive", "5002"])?;
    let to = format!("{}:5002", scene.address("receiver", FRONT, false)?);
    // A datagram every few milliseconds, without end.
    let endless = format!("while :; do traffic udp-send {to} 10 700 >/dev/null; done");
    scene.run("sender", FRONT, &["sh", "-c", &endless])?;
    let endpoints = [
        scene.endpoint("receiver", FRONT)?,
        scene.endpoint("sender", FRONT)?,
    ];
    for endpoint in &endpoints {
        scene.wait_named(endpoint)?;
    }
    let at_start = scene.samples()?.sum(
        "dtm_container_network_transmit_bytes_total",
        &endpoints[1].labels(),
    );
    scene.engine.stop()?;
    wait_docker(&scene, 0)?;
    // Traffic goes on, and so do its series, under their names.
    eventually(PATIENCE, "the count grows while docker is away", || {
        let now = scene.samples()?.get(
            "dtm_container_network_transmit_bytes_total",
            &endpoints[1].labels(),
        )?;
        Ok((now > at_start + 100_000).then_some(()))
    })?;
    scene.engine.start_again()?;
    wait_docker(&scene, 1)?;
    // A container of the time after has a name as well.
    scene.run("late", FRONT, &["sleep", "3600"])?;
    scene.wait_named(&scene.endpoint("late", FRONT)?)?;
    scene.engine.docker(["stop", "--time", "0", "sender"])?;
    let (kernel, counted) = scene.both(&endpoints[0])?;
    assert_eq!(
        counted, kernel,
        "everything the receiver was sent since its birth"
    );
    let sent = scene.samples()?.get(
        "dtm_container_network_transmit_bytes_total",
        &endpoints[1].labels(),
    )?;
    assert!(sent >= at_start, "the sender's final total lingers");
    Ok(())
}

#[test]
fn nothing_is_lost_while_the_current_engine_restarts() -> Result<()> {
    nothing_is_lost_while_the_engine_restarts(EngineKind::Current)
}

#[test]
fn nothing_is_lost_while_the_old_engine_restarts() -> Result<()> {
    nothing_is_lost_while_the_engine_restarts(EngineKind::Old)
}

/// An engine that was killed comes back to containers it never let go of, without live-restore too.
#[test]
fn names_come_back_after_the_engine_was_killed() -> Result<()> {
    let mut scene = Scene::new(EngineOptions {
        live_restore: true,
        ..EngineOptions::new(EngineKind::newest()?)
    })?;
    scene.run("receiver", FRONT, &["traffic", "udp-receive", "5002"])?;
    scene.run("sender", FRONT, &["sleep", "3600"])?;
    scene.engine.kill()?;
    // dtm comes while there is no engine: it is ready, counts, and knows no names.
    scene.start_dtm(&[])?;
    wait_docker(&scene, 0)?;
    let pending = scene.samples()?.sum("dtm_interfaces", &[("state", "pending")]);
    assert_eq!(pending, 2, "both host ends are attached to, without a name");
    scene.engine.start_again()?;
    wait_docker(&scene, 1)?;
    let receiver = scene.endpoint("receiver", FRONT)?;
    scene.wait_named(&receiver)?;
    let (kernel_before, before) = scene.both(&receiver)?;
    let to = format!("{}:5002", scene.address("receiver", FRONT, false)?);
    scene.exec("sender", &["traffic", "udp-send", &to, "100", "500"])?;
    let (kernel, counted) = scene.both(&receiver)?;
    assert_eq!(growth(before, counted), growth(kernel_before, kernel));
    Ok(())
}
