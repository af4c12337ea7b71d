//! Connections that outlive dtm, or are older.

use anyhow::{Context as _, Result};
use dtm_tests::{
    far::Version,
    scene::{PATIENCE, Scene},
    tcp::{grown, kernel},
};
use rustix::process::Signal;
use xtask::host::{EngineKind, EngineOptions, Running, eventually};

use crate::stage::Stage;

const KEPT: u64 = 12;

/// Connections of the client that stay as long as the guard.
fn keep(stage: &Stage, version: Version, count: u64) -> Result<Running> {
    let (to, count) = (stage.server(version)?, count.to_string());
    let keep = ["exec", "client", "traffic", "tcp-keep", &to, &count];
    Running::spawn(&mut stage.scene.engine.docker_command(keep))
}

/// Waits until both sides have as many as the kernel says, and these are so many.
fn both_have(stage: &Stage, count: u64) -> Result<()> {
    for name in ["client", "server"] {
        let inside = stage.inside(name)?;
        eventually(PATIENCE, "the connections are there", || {
            Ok((kernel(&inside)?["CurrEstab"] == count).then_some(()))
        })?;
        stage.wait(name, &format!("{count} connections"), |shown| {
            shown.connections == Some(count)
        })?;
    }
    Ok(())
}

#[test]
fn connections_are_there_as_long_as_they_are_and_whoever_watches() -> Result<()> {
    let mut stage = Stage::new(EngineKind::newest()?)?;
    let first = keep(&stage, Version::V4, KEPT)?;
    both_have(&stage, KEPT)?;
    let before = stage.both("client")?;
    // While nobody watches some come and some go, and all of it is counted.
    stage.scene.kill_dtm()?;
    let second = keep(&stage, Version::V6, 3)?;
    let server = stage.inside("server")?;
    eventually(PATIENCE, "they are there", || {
        Ok((kernel(&server)?["CurrEstab"] == KEPT + 3).then_some(()))
    })?;
    stage.traffic("client", &["tcp-ping", &stage.server(Version::V4)?, "3", "100"])?;
    stage.scene.start_dtm(&[])?;
    both_have(&stage, KEPT + 3)?;
    let after = stage.both("client")?;
    let since = after.1.since(&before.1);
    assert_eq!(since.client, grown(&before.0, &after.0, "ActiveOpens")?);
    assert_eq!(since.client, 4);
    // In order, and with another configuration: other programs take over.
    stage.scene.end_dtm(Signal::TERM)?;
    stage.scene.start_dtm(&["--no-tcp-rtt"])?;
    both_have(&stage, KEPT + 3)?;
    let again = stage.both("client")?;
    assert_eq!(again.1.client, after.1.client);
    drop(second);
    drop(first);
    stage.scene.engine.docker(["restart", "--time", "0", "client"])?;
    stage.wait("client", "its sockets are looked at again", |shown| {
        shown.connections == Some(0)
    })?;
    let restarted = stage.shown("client")?;
    assert!(restarted.client >= again.1.client, "its counters go on");
    stage.scene.stop_dtm()
}

#[test]
fn connections_that_are_older_than_dtm_are_counted_and_tell_of_round_trips() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::newest()?))?;
    scene.start_dtm(&["--no-tcp", "--no-pin"])?;
    let mut stage = Stage { scene };
    let samples = stage.scene.samples()?;
    for name in ["server", "client"] {
        let args: Vec<String> = match name {
            "server" => ["traffic", "tcp-echo", "5001"].map(String::from).to_vec(),
            _ => ["sleep", "3600"].map(String::from).to_vec(),
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        stage.scene.run(name, dtm_tests::scene::BACK, &args)?;
    }
    dtm_tests::far::wait_listening(&stage.inside("server")?, 5001)?;
    assert!(
        samples
            .iter()
            .all(|sample| !sample.name.starts_with("dtm_container_tcp_conn")),
        "it is switched off"
    );
    // It speaks all the while, on one connection.
    let to = stage.server(Version::V4)?;
    let talk = ["exec", "client", "traffic", "tcp-ping", &to, "1000000", "1000"];
    let _talk = Running::spawn(&mut stage.scene.engine.docker_command(talk))?;
    let _kept = keep(&stage, Version::V6, KEPT)?;
    let server = stage.inside("server")?;
    eventually(PATIENCE, "they are there", || {
        Ok((kernel(&server)?["CurrEstab"] == KEPT + 1).then_some(()))
    })?;
    stage.scene.stop_dtm()?;
    stage.scene.start_dtm(&[])?;
    both_have(&stage, KEPT + 1)?;
    for name in ["client", "server"] {
        let shown = stage.shown(name)?;
        assert_eq!((shown.client, shown.server), (0, 0), "these were opened before");
        eventually(PATIENCE, "round trips of an old connection", || {
            let count = stage
                .scene
                .samples()?
                .find("dtm_container_tcp_rtt_seconds_count", &[("name", name)])?;
            Ok(count.filter(|count| *count > 10))
        })
        .with_context(|| {
            format!(
                "{name}: {}",
                stage
                    .scene
                    .dtm()
                    .map(dtm_tests::daemon::Dtm::log)
                    .unwrap_or_default()
            )
        })?;
    }
    let info = stage.scene.samples()?;
    let has = |feature| info.get("dtm_feature_available", &[("feature", feature)]);
    assert_eq!((has("tcp")?, has("tcp_rtt")?), (1, 1));
    stage.scene.stop_dtm().context("it ends in order")
}
