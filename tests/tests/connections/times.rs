//! Round trips and handshakes, against what `ss` says of the same connection.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::Samples,
    far::Version,
    scene::{BACK, PATIENCE},
};
use xtask::host::{EngineKind, Running, eventually};

use crate::stage::Stage;

/// A histogram's count and sum in seconds.
fn histogram(samples: &Samples, metric: &str, labels: &[(&str, &str)]) -> Result<(f64, f64)> {
    let one = |part: &str| -> Result<f64> {
        let name = format!("dtm_container_tcp_{metric}_{part}");
        let mut all = samples.all(&name, labels);
        Ok(all.next().map_or(0.0, |sample| sample.value))
    };
    Ok((one("count")?, one("sum")?))
}

/// The smoothed round-trip time of the client's connections in milliseconds, as the kernel says it.
fn kernels_round_trip(stage: &Stage) -> Result<Option<f64>> {
    let text = stage
        .inside("client")?
        .run("ss", ["-tinH", "state", "established"])?;
    let rtt = text.split_whitespace().find_map(|word| word.strip_prefix("rtt:"));
    let rtt = rtt.and_then(|rtt| rtt.split('/').next());
    Ok(rtt.map(str::parse).transpose()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A queue at the server's host end that gives out a packet of this size every twelve milliseconds or so: what comes
/// back waits for what came before it.
#[test]
fn round_trips_are_what_the_kernel_says() -> Result<()> {
    let stage = Stage::new(EngineKind::newest()?)?;
    let end = stage.scene.endpoint("server", BACK)?;
    let host_end = stage.scene.host().links()?;
    let name = host_end.iter().find(|link| link.ifindex == end.host_end);
    let name = name.context("a host end")?.name.clone();
    let queue = [
        "qdisc", "add", "dev", &name, "root", "tbf", "rate", "1mbit", "burst", "1600", "limit", "100000",
    ];
    stage.scene.host().run("tc", queue)?;
    for version in Version::ALL {
        let to = stage.server(version)?;
        let talk = ["exec", "client", "traffic", "tcp-ping", &to, "1000000", "1300"];
        let talk = Running::spawn(&mut stage.scene.engine.docker_command(talk))?;
        let of = [("name", "client")];
        let now = || histogram(&stage.scene.samples()?, "rtt_seconds", &of);
        // Until the first measures have been smoothed away.
        let start = now()?;
        eventually(PATIENCE, "it settles", || {
            Ok((now()?.0 > start.0 + 60.0).then_some(()))
        })?;
        let before = now()?;
        let mut said = Vec::new();
        eventually(PATIENCE, "enough round trips", || {
            said.extend(kernels_round_trip(&stage)?);
            Ok((now()?.0 > before.0 + 200.0).then_some(()))
        })?;
        let after = now()?;
        let mean = (after.1 - before.1) / (after.0 - before.0) * 1_000.0;
        let truth = median(said);
        ensure!(truth > 5.0, "the queue makes nobody wait: {truth} ms");
        ensure!(
            (mean / truth - 1.0).abs() <= 0.05,
            "{version:?}: {mean} ms counted, {truth} ms said"
        );
        drop(talk);
        stage
            .scene
            .exec("client", &["sh", "-c", "kill $(pidof traffic) || true"])?;
    }
    Ok(())
}

#[test]
fn handshakes_take_as_long_as_they_take() -> Result<()> {
    let stage = Stage::new(EngineKind::newest()?)?;
    // The first SYN to the server is lost: the client sends another after a second.
    let loss = "table inet loss { chain in { type filter hook input priority 0; \
                tcp flags & (syn|ack) == syn numgen inc mod 2 == 0 drop; }; }";
    stage.inside("server")?.run("nft", [loss])?;
    let of = |role| {
        [
            ("name", if role == "client" { "client" } else { "server" }),
            ("role", role),
        ]
    };
    let read = |role| histogram(&stage.scene.samples()?, "connect_duration_seconds", &of(role));
    let before = [read("client")?, read("server")?];
    for _ in 0..3 {
        stage.traffic("client", &["tcp-ping", &stage.server(Version::V4)?, "1", "10"])?;
    }
    let after = eventually(PATIENCE, "three handshakes", || {
        let after = [read("client")?, read("server")?];
        Ok((after[0].0 >= before[0].0 + 3.0 && after[1].0 >= before[1].0 + 3.0).then_some(after))
    })?;
    let mean = |at: usize| (after[at].1 - before[at].1) / (after[at].0 - before[at].0);
    // TCP_TIMEOUT_INIT is one second.
    assert!(
        (1.0..1.2).contains(&mean(0)),
        "the client has waited for a second: {} s",
        mean(0)
    );
    assert!(mean(1) < 0.2, "the server has not: {} s", mean(1));
    Ok(())
}
