//! What a series is called, and how it lives.

use anyhow::Result;
use xtask::host::{EngineKind, EngineOptions, eventually};

use dtm_tests::scene::{FRONT, IMAGE, PATIENCE, Scene};

const BYTES: &str = "dtm_container_network_receive_bytes_total";

/// `docker rename` ends the old name's series and goes on under the new one; a restart goes on in the same series.
#[test]
fn a_series_goes_on_through_a_rename_and_a_restart() -> Result<()> {
    let scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.run("first", FRONT, &["traffic", "udp-receive", "5002"])?;
    scene.run("sender", FRONT, &["sleep", "3600"])?;
    scene.wait_named(&scene.endpoint("first", FRONT)?)?;
    let send = |scene: &Scene, to: &str| -> Result<()> {
        let to = format!("{}:5002", scene.address(to, FRONT, false)?);
        scene
            .exec("sender", &["traffic", "udp-send", &to, "100", "500"])
            .map(drop)
    };
    send(&scene, "first")?;
    let (_kernel, before) = scene.both(&scene.endpoint("first", FRONT)?)?;
    scene.engine.docker(["rename", "first", "second"])?;
    let endpoint = scene.endpoint("second", FRONT)?;
    scene.wait_named(&endpoint)?;
    let samples = scene.samples()?;
    assert_eq!(
        samples.sum(BYTES, &[("name", "first")]),
        0,
        "the old name is gone at once"
    );
    assert!(
        samples.get(BYTES, &endpoint.labels())? >= before.0,
        "the value goes on"
    );
    scene.engine.docker(["restart", "--time", "0", "second"])?;
    let reborn = scene.endpoint("second", FRONT)?;
    assert_ne!(reborn.host_end, endpoint.host_end, "a new interface");
    send(&scene, "second")?;
    let after = eventually(PATIENCE, "the series goes on", || {
        let value = scene.samples()?.get(BYTES, &reborn.labels())?;
        Ok((value >= before.0 + 100 * 542).then_some(value))
    })?;
    let series = scene.samples()?.all(BYTES, &[("name", "second")]).count();
    assert_eq!(series, 1, "one series over both lives, at {after}");
    Ok(())
}

/// Final totals stay for `--linger`, and then go; the network's sum stays.
#[test]
fn totals_linger_and_then_go() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::newest()?))?;
    scene.start_dtm(&["--linger", "3s"])?;
    let ping = [
        "run",
        "--rm",
        "--name",
        "brief",
        "--network",
        FRONT,
        IMAGE,
        "sh",
        "-c",
    ];
    let command = "ping -c 2 -i 0.2 $(ip route | awk '/default/ { print $3 }')";
    scene.engine.docker(ping.iter().chain(&[command]))?;
    let of = [("name", "brief")];
    let total = eventually(PATIENCE, "the totals are there", || {
        Ok(Some(scene.samples()?.sum(BYTES, &of)).filter(|total| *total > 0))
    })?;
    eventually(PATIENCE, "the totals have gone", || {
        Ok(scene.samples()?.all(BYTES, &of).next().is_none().then_some(()))
    })?;
    let samples = scene.samples()?;
    assert_eq!(
        samples.sum(
            "dtm_network_containers_receive_bytes_total",
            &[("network", FRONT)]
        ),
        total
    );
    assert_eq!(samples.all("dtm_container_info", &of).count(), 0);
    Ok(())
}

/// Who has no interface has no series of one: not a zero, and not somebody else's traffic.
#[test]
fn who_has_no_interface_has_no_series_of_one() -> Result<()> {
    let scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.run("open", "host", &["sleep", "3600"])?;
    scene.run("closed", "none", &["sleep", "3600"])?;
    scene.run("owner", FRONT, &["sleep", "3600"])?;
    scene.run("sidecar", "container:owner", &["sleep", "3600"])?;
    let owner = scene.engine.docker(["inspect", "--format", "{{.Id}}", "owner"])?;
    eventually(PATIENCE, "all four are known", || {
        let samples = scene.samples()?;
        let shared = [("name", "sidecar"), ("network_container_id", owner.as_str())];
        let known = samples.all("dtm_container_info", &shared).count() == 1
            && samples.find(BYTES, &[("name", "owner")])?.is_some()
            && samples
                .find(BYTES, &[("name", "open"), ("network", "host"), ("interface", "")])?
                .is_some();
        Ok(known.then_some(()))
    })?;
    let samples = scene.samples()?;
    for (container, series) in [("open", 1), ("closed", 0), ("sidecar", 0)] {
        let found = samples.all(BYTES, &[("name", container)]).count();
        assert_eq!(found, series, "{container}");
    }
    assert_eq!(
        samples
            .all(
                "dtm_container_info",
                &[("name", "closed"), ("network_mode", "none")]
            )
            .count(),
        1
    );
    assert_eq!(samples.all("dtm_container_uncovered", &[]).count(), 0);
    Ok(())
}
