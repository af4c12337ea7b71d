//! Drops carry the kernel's reason and the container's name, and what was delivered drops nothing.

use anyhow::{Context as _, Result};
use xtask::host::{EngineKind, eventually};

use dtm_tests::scene::{FRONT, PATIENCE, SILENT, Scene};

const DROPPED: &str = "dtm_container_network_dropped_packets_total";

/// Packets that a rule of the host's has matched, by netfilter's own count.
fn matched(scene: &Scene, chain: &str) -> Result<u64> {
    let listing = scene
        .host()
        .run("iptables", ["-t", "filter", "-L", chain, "-v", "-x", "-n"])?;
    let rule = listing
        .lines()
        .find(|line| line.contains("DROP") && line.contains("dpt:9999"));
    let packets = rule
        .and_then(|rule| rule.split_whitespace().next())
        .context("a rule that drops")?;
    Ok(packets.parse()?)
}

fn a_rule_drops_exactly_what_it_matched(kind: EngineKind) -> Result<()> {
    let scene = Scene::watched(kind, "auto")?;
    scene.make_silent_network()?;
    scene.run("receiver", SILENT, &["traffic", "udp-receive", "5002"])?;
    scene.run("sender", SILENT, &["sleep", "3600"])?;
    let (receiver, sender) = (
        scene.endpoint("receiver", SILENT)?,
        scene.endpoint("sender", SILENT)?,
    );
    scene.wait_named(&receiver)?;
    scene.wait_named(&sender)?;
    // Docker's own networks speak through the host's FORWARD chain only where they cross it; the gateway is the host.
    let rule = ["-I", "INPUT", "-p", "udp", "--dport", "9999", "-j", "DROP"];
    scene.host().run("iptables", rule)?;
    let gateway = scene.engine.docker([
        "network",
        "inspect",
        "--format",
        "{{(index .IPAM.Config 0).Gateway}}",
        SILENT,
    ])?;
    let to_receiver = format!("{}:5002", scene.address("receiver", SILENT, false)?);
    scene.exec("sender", &["traffic", "udp-send", &to_receiver, "50", "400"])?;
    scene.both(&receiver)?;
    let before = scene.samples()?;
    scene.exec(
        "sender",
        &["traffic", "udp-send", &format!("{gateway}:9999"), "250", "400"],
    )?;
    scene.exec("sender", &["traffic", "udp-send", &to_receiver, "1000", "400"])?;
    scene.both(&receiver)?;
    let labels = [
        ("name", "sender"),
        ("direction", "transmit"),
        ("reason", "netfilter_drop"),
    ];
    eventually(PATIENCE, "the drops are counted", || {
        Ok((scene.samples()?.sum(DROPPED, &labels) >= 250).then_some(()))
    })?;
    let after = scene.samples()?;
    assert_eq!(matched(&scene, "INPUT")?, 250, "the rule's own count");
    let grown =
        |metric: &str, labels: &[(&str, &str)]| after.sum(metric, labels) - before.sum(metric, labels);
    assert_eq!(grown(DROPPED, &labels), 250);
    // 400 bytes of payload behind UDP's and IPv4's header: at INPUT the Ethernet header is off.
    let bytes = DROPPED.replace("packets", "bytes");
    assert_eq!(grown(&bytes, &labels), 250 * (400 + 8 + 20));
    assert_eq!(
        grown("dtm_dropped_packets_total", &[("reason", "netfilter_drop")]),
        250
    );
    // The thousand that were delivered, and the 250 at any other reason, are nobody's drops.
    let of_receiver: Vec<_> = after.all(DROPPED, &[("name", "receiver")]).collect();
    let lost = grown(DROPPED, &[("name", "receiver")]);
    assert_eq!(lost, 0, "what was delivered drops nothing: {of_receiver:?}");
    assert_eq!(
        grown(DROPPED, &[("name", "sender")]),
        250,
        "and the others are counted once"
    );
    assert_eq!(
        grown(
            "dtm_unattributed_dropped_packets_total",
            &[("reason", "netfilter_drop")]
        ),
        0
    );
    Ok(())
}

#[test]
fn a_rule_drops_exactly_what_it_matched_on_the_current_engine() -> Result<()> {
    a_rule_drops_exactly_what_it_matched(EngineKind::Current)
}

#[test]
fn a_rule_drops_exactly_what_it_matched_on_the_old_engine() -> Result<()> {
    a_rule_drops_exactly_what_it_matched(EngineKind::Old)
}

/// On the way to a container: dropped inside its own namespace, where only the namespace says whose it is.
#[test]
fn a_rule_inside_the_container_drops_on_its_receive_side() -> Result<()> {
    let scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.run("receiver", FRONT, &["traffic", "udp-receive", "5002"])?;
    scene.run("sender", FRONT, &["sleep", "3600"])?;
    let receiver = scene.endpoint("receiver", FRONT)?;
    scene.wait_named(&receiver)?;
    let process = scene
        .engine
        .docker(["inspect", "--format", "{{.State.Pid}}", "receiver"])?;
    let inside = [
        "--target", &process, "--net", "iptables", "-I", "INPUT", "-p", "udp", "--dport", "9999", "-j",
        "DROP",
    ];
    scene.host().run("nsenter", inside)?;
    let to = format!("{}:9999", scene.address("receiver", FRONT, false)?);
    scene.exec("sender", &["traffic", "udp-send", &to, "120", "300"])?;
    let labels = [
        ("name", "receiver"),
        ("direction", "receive"),
        ("reason", "netfilter_drop"),
    ];
    let dropped = eventually(PATIENCE, "the drops are counted", || {
        let dropped = scene.samples()?.sum(DROPPED, &labels);
        Ok((dropped >= 120).then_some(dropped))
    })?;
    assert_eq!(dropped, 120);
    Ok(())
}

/// A clean end of a connection is no loss, though the kernel frees its last segments in `TIME_WAIT` like a drop.
#[test]
fn clean_connections_drop_nothing() -> Result<()> {
    let scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.make_silent_network()?;
    scene.run("receiver", SILENT, &["traffic", "tcp-receive", "5001"])?;
    scene.run("sender", SILENT, &["sleep", "3600"])?;
    let endpoints = [
        scene.endpoint("receiver", SILENT)?,
        scene.endpoint("sender", SILENT)?,
    ];
    for endpoint in &endpoints {
        scene.wait_named(endpoint)?;
    }
    let to = format!("{}:5001", scene.address("receiver", SILENT, false)?);
    let connect = format!("for i in $(seq 100); do traffic tcp-send {to} 3000 >/dev/null || exit 1; done");
    scene.exec("sender", &["sh", "-c", &connect])?;
    for endpoint in &endpoints {
        let (kernel, counted) = scene.both(endpoint)?;
        assert_eq!(kernel, counted, "{endpoint:?}");
    }
    let samples = scene.samples()?;
    let lost: Vec<_> = samples
        .all(DROPPED, &[])
        .filter(|sample| sample.value > 0.0)
        .collect();
    assert!(lost.is_empty(), "100 clean connections lost {lost:?}");
    Ok(())
}
