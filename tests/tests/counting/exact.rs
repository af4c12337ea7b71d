//! Bytes equal the kernel's own counters, on every interface, both ways, on both engines and in both attach modes.

use anyhow::Result;
use xtask::host::EngineKind;

use dtm_tests::scene::{BACK, Endpoint, FRONT, Scene, growth};

/// Traffic of every kind between two containers that share two networks: TCP in bulk, UDP, ping, IPv4 and IPv6.
fn talk(scene: &Scene) -> Result<()> {
    let front = scene.address("receiver", FRONT, false)?;
    let back = scene.address("receiver", BACK, true)?;
    scene.exec(
        "sender",
        &["traffic", "tcp-send", &format!("{front}:5001"), "20000000"],
    )?;
    scene.exec(
        "sender",
        &["traffic", "tcp-send", &format!("{back}:5001"), "5000000"],
    )?;
    scene.exec(
        "sender",
        &["traffic", "udp-send", &format!("{front}:5002"), "500", "900"],
    )?;
    scene.exec(
        "sender",
        &["traffic", "udp-send", &format!("{back}:5002"), "500", "1200"],
    )?;
    scene.exec("sender", &["ping", "-c", "3", "-i", "0.2", &front])?;
    scene.exec(
        "sender",
        &["ping", "-c", "3", "-i", "0.2", back.trim_matches(['[', ']'])],
    )?;
    Ok(())
}

/// Two containers on both networks.
fn start_pair(scene: &Scene) -> Result<Vec<Endpoint>> {
    let receive = "traffic udp-receive 5002 & exec traffic tcp-receive 5001";
    scene.run("receiver", FRONT, &["sh", "-c", receive])?;
    scene.run("sender", FRONT, &["sleep", "3600"])?;
    for container in ["receiver", "sender"] {
        scene.engine.docker(["network", "connect", BACK, container])?;
    }
    let places = [
        ("receiver", FRONT),
        ("receiver", BACK),
        ("sender", FRONT),
        ("sender", BACK),
    ];
    places
        .into_iter()
        .map(|(container, network)| scene.endpoint(container, network))
        .collect()
}

fn bytes_equal_the_kernels(scene: &Scene) -> Result<()> {
    let endpoints = start_pair(scene)?;
    for endpoint in &endpoints {
        scene.wait_named(endpoint)?;
    }
    let before = endpoints
        .iter()
        .map(|endpoint| scene.both(endpoint))
        .collect::<Result<Vec<_>>>()?;
    talk(scene)?;
    for (endpoint, (kernel_before, counted_before)) in endpoints.iter().zip(before) {
        let (kernel, counted) = scene.both(endpoint)?;
        let (moved, seen) = (growth(kernel_before, kernel), growth(counted_before, counted));
        assert_eq!(seen, moved, "received and transmitted bytes of {endpoint:?}");
        // Born under dtm's eyes: not only the growth, the whole counter is the same.
        assert_eq!(counted, kernel, "all bytes of {endpoint:?} since its birth");
        // Direction is the container's: the sender sends.
        let (sent, received) = if endpoint.container == "sender" {
            (seen.1, seen.0)
        } else {
            (seen.0, seen.1)
        };
        assert!(
            sent > 5_000_000 && received < sent / 10,
            "{endpoint:?} moved {seen:?}"
        );
    }
    // The sums of a network are those of its containers.
    let samples = scene.samples()?;
    for network in [FRONT, BACK] {
        for direction in ["receive", "transmit"] {
            for unit in ["bytes", "packets"] {
                let of = |family: &str, label: &[(&str, &str)]| {
                    samples.sum(&format!("dtm_{family}_{direction}_{unit}_total"), label)
                };
                assert_eq!(
                    of("network_containers", &[("network", network)]),
                    of("container_network", &[("network", network)]),
                    "{network}: {direction} {unit}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn bytes_equal_the_kernels_on_the_current_engine_with_tcx() -> Result<()> {
    bytes_equal_the_kernels(&Scene::watched(EngineKind::Current, "tcx")?)
}

#[test]
fn bytes_equal_the_kernels_on_the_current_engine_with_clsact() -> Result<()> {
    bytes_equal_the_kernels(&Scene::watched(EngineKind::Current, "clsact")?)
}

#[test]
fn bytes_equal_the_kernels_on_the_old_engine_with_tcx() -> Result<()> {
    bytes_equal_the_kernels(&Scene::watched(EngineKind::Old, "tcx")?)
}

#[test]
fn bytes_equal_the_kernels_on_the_old_engine_with_clsact() -> Result<()> {
    bytes_equal_the_kernels(&Scene::watched(EngineKind::Old, "clsact")?)
}
