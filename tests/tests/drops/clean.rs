//! What arrives is no drop, however much it is.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{TCP, wait_listening},
    scene::{SILENT, Scene},
};
use xtask::host::EngineKind;

use crate::stage::{Lost, loses};

const CONNECTIONS: u64 = 10_000;
const SEGMENTS: u64 = 1_000_000;
/// What a segment carries on a network of 1,500 bytes.
const PAYLOAD: u64 = 1448;

#[test]
fn ten_thousand_connections_and_a_million_packets_drop_nothing() -> Result<()> {
    let mut scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.make_silent_network()?;
    scene.run("receiver", SILENT, &["traffic", "tcp-receive", &TCP.to_string()])?;
    scene.run("sender", SILENT, &["sleep", "3600"])?;
    for name in ["receiver", "sender"] {
        scene.wait_named(&scene.endpoint(name, SILENT)?)?;
    }
    wait_listening(&scene.engine.inside("receiver")?, TCP)?;
    let to = format!("{}:{TCP}", scene.address("receiver", SILENT, false)?);
    loses(&scene, "connections", || {
        scene.exec(
            "sender",
            &["traffic", "tcp-connections", &to, &CONNECTIONS.to_string(), "100"],
        )?;
        Ok(Lost::new())
    })?;
    let bytes = (SEGMENTS * PAYLOAD).to_string();
    scene.exec("sender", &["traffic", "tcp-send", &to, &bytes])?;
    // A machine that is busy sends some of it twice: what came a second time is thrown away.
    let sent = scene
        .engine
        .inside("sender")?
        .run("nstat", ["-asz", "TcpRetransSegs"])?;
    let twice = sent
        .split_whitespace()
        .skip_while(|word| *word != "TcpRetransSegs")
        .nth(1);
    let twice: u64 = twice.context("a count of retransmissions")?.parse()?;
    let samples = scene.samples()?;
    let all = samples.all("dtm_container_network_dropped_packets_total", &[]);
    let lost: Vec<_> = all.filter(|sample| sample.value > 0.0).collect();
    let is_twice = |reason: &str| ["tcp_old_data", "tcp_old_sequence", "tcp_old_ack"].contains(&reason);
    ensure!(
        lost.iter().all(|sample| is_twice(&sample.labels["reason"])),
        "{lost:?}"
    );
    let count: u64 = lost.iter().map(|sample| sample.count()).sum();
    ensure!(count <= twice, "{count} were thrown away, and {twice} sent twice");
    let received = scene.samples()?.sum(
        "dtm_container_network_receive_packets_total",
        &[("name", "receiver")],
    );
    ensure!(received > SEGMENTS, "only {received} packets");
    scene.stop_dtm()
}
