//! The engine may stop and start: what it left running goes on being counted, and names come back.

use anyhow::Result;
use dtm_tests::{
    known::{goes_on, has_sent, id_of, plain_stage, port_of, run, send, wait_docker, wait_gone, wait_state},
    scene::{FRONT, PATIENCE, SILENT, Scene, growth},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

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

/// Everything the host and the default network have said to each other, both ways.
fn at_the_default_bridge(scene: &Scene) -> Result<u64> {
    let samples = scene.samples()?;
    let of = |name| samples.sum(name, &[("network", "bridge")]);
    Ok(of("dtm_network_bridge_receive_bytes_total") + of("dtm_network_bridge_transmit_bytes_total"))
}

/// Without live-restore containers end with their engine, or with the start of the next. Those that are started again
/// go on, and so does the default network, which the engine makes anew under another id.
fn what_an_engine_starts_again_goes_on(kind: EngineKind, mode: &str, orderly: bool) -> Result<()> {
    let (mut scene, watch) = plain_stage(kind, mode)?;
    scene.engine.docker(["update", "--restart=always", "receiver"])?;
    let to = port_of(&scene, "receiver", SILENT)?;
    run(&scene, "always", &["--restart=always"], "exec sleep 3600")?;
    run(&scene, "once", &[], "exec sleep 3600")?;
    scene.run("local", "bridge", &["sleep", "3600"])?;
    let (always, once) = (id_of(&scene, "always")?, id_of(&scene, "once")?);
    for (name, id) in [("always", &always), ("once", &once)] {
        send(&scene, name, &to, 100)?;
        has_sent(&scene, id, 100)?;
    }
    let ping = "ping -c 2 -i 0.2 $(ip route | awk '/default/ { print $3 }')";
    scene.exec("local", &["sh", "-c", ping])?;
    let at_bridge = at_the_default_bridge(&scene)?;
    assert!(at_bridge > 4 * 98, "{at_bridge} bytes of two pings");
    let network_id = |scene: &Scene| {
        scene
            .engine
            .docker(["network", "inspect", "--format", "{{.Id}}", "bridge"])
    };
    let default_network = network_id(&scene)?;
    let before = goes_on(&scene, &always, &scene.endpoint("always", SILENT)?, (0, 0))?;

    if orderly {
        scene.engine.stop()?;
    } else {
        scene.engine.kill()?;
    }
    wait_docker(&scene, 0)?;
    scene.engine.start_again()?;
    wait_docker(&scene, 1)?;
    assert_ne!(
        network_id(&scene)?,
        default_network,
        "it is another network of that name"
    );
    wait_state(&scene, "running", 2)?;
    wait_state(&scene, "exited", 2)?;
    let to = port_of(&scene, "receiver", SILENT)?;
    send(&scene, "always", &to, 100)?;
    has_sent(&scene, &always, 200)?;
    goes_on(&scene, &always, &scene.endpoint("always", SILENT)?, before)?;
    // Nobody starts it again: it ends, and goes on when somebody does.
    wait_gone(&scene, &once)?;
    for name in ["once", "local"] {
        scene.engine.docker(["start", name])?;
    }
    send(&scene, "once", &to, 100)?;
    has_sent(&scene, &once, 200)?;
    // The old default network has lingered when one that was removed after it has.
    scene.engine.docker(["network", "create", "marker"])?;
    scene.engine.docker(["network", "rm", "marker"])?;
    eventually(PATIENCE, "a network that was removed later has gone", || {
        let samples = scene.samples()?;
        let of_marker = [("network", "marker")];
        let mut left = samples.all("dtm_network_containers_receive_bytes_total", &of_marker);
        Ok(left.next().is_none().then_some(()))
    })?;
    assert!(at_the_default_bridge(&scene)? >= at_bridge, "its sums go on");
    let at_bridge = at_the_default_bridge(&scene)?;
    scene.exec("local", &["sh", "-c", ping])?;
    let grown = at_the_default_bridge(&scene)? - at_bridge;
    assert!(
        (4 * 98..=4 * 98 + 4 * 42).contains(&grown),
        "{grown} bytes of two pings"
    );
    let samples = scene.samples()?;
    assert_eq!(samples.sum("dtm_unattributed_transmit_bytes_total", &[]), 0);
    watch.finish()
}

#[test]
fn what_the_old_engine_starts_again_after_a_stop_goes_on() -> Result<()> {
    what_an_engine_starts_again_goes_on(EngineKind::Old, "clsact", true)
}

#[test]
fn what_the_old_engine_starts_again_after_a_kill_goes_on() -> Result<()> {
    what_an_engine_starts_again_goes_on(EngineKind::Old, "tcx", false)
}

#[test]
fn what_the_current_engine_starts_again_after_a_stop_goes_on() -> Result<()> {
    what_an_engine_starts_again_goes_on(EngineKind::Current, "tcx", true)
}

#[test]
fn what_the_current_engine_starts_again_after_a_kill_goes_on() -> Result<()> {
    what_an_engine_starts_again_goes_on(EngineKind::Current, "clsact", false)
}
