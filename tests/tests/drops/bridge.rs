//! Containers on a bridge network, and one in another's namespace.

use anyhow::{Result, ensure};
use dtm_tests::{
    far::{Far, UDP, Version, udp_count, wait_listening},
    rules::matched,
    scene::{SILENT, Scene},
};
use xtask::host::EngineKind;

use crate::stage::{loses, lost, make_short_queue, queue_drops};

/// Ports that rules throw away; nobody listens there.
const BY_IPTABLES: u16 = 9991;
const BY_NFTABLES: u16 = 9992;
const INSIDE: u16 = 9993;
const AT_HOST: u16 = 9994;
/// Where a socket is that nobody reads.
const NEGLECTED: u16 = 5003;

/// Sends from a container to somebody outside.
fn send(scene: &Scene, from: &str, to: &str, port: u16, count: u64, size: u64) -> Result<()> {
    let (to, count, size) = (format!("{to}:{port}"), count.to_string(), size.to_string());
    scene
        .exec(from, &["traffic", "udp-send", &to, &count, &size])
        .map(drop)
}

#[test]
fn drops_on_a_bridge_network_are_exactly_what_others_count() -> Result<()> {
    let mut scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.make_silent_network()?;
    let far = Far::new(scene.host(), 1)?;
    let host = scene.host().network()?;
    scene.run("one", SILENT, &["sleep", "3600"])?;
    scene.run("two", SILENT, &["traffic", "udp-neglect", &NEGLECTED.to_string()])?;
    scene.run("sharer", "container:one", &["sleep", "3600"])?;
    for name in ["one", "two"] {
        scene.wait_named(&scene.endpoint(name, SILENT)?)?;
    }
    let (one, two) = (scene.engine.inside("one")?, scene.engine.inside("two")?);
    wait_listening(&two, NEGLECTED)?;
    let outside = far.address(Version::V4);
    let at_two = scene.address("two", SILENT, false)?;
    // Neighbours are known from here on.
    send(&scene, "one", &outside, UDP, 1, 10)?;
    send(&scene, "one", &at_two, NEGLECTED, 1, 10)?;

    loses(&scene, "a rule of iptables' in FORWARD", || {
        let port = BY_IPTABLES.to_string();
        let rule = ["-I", "FORWARD", "-p", "udp", "--dport", &port, "-j", "DROP"];
        host.run("iptables", rule)?;
        send(&scene, "one", &outside, BY_IPTABLES, 250, 400)?;
        let listing = host.run("iptables", ["-L", "FORWARD", "-v", "-x", "-n"])?;
        let is_matched = |line: &&str| line.contains(&port) && line.split_whitespace().next() == Some("250");
        ensure!(listing.lines().any(|line| is_matched(&line)), "{listing}");
        Ok(lost("one", "transmit", "netfilter_drop", 250))
    })?;
    loses(
        &scene,
        "a rule of nftables' in FORWARD, from another's namespace",
        || {
            let rule = format!(
                "table inet forwarded {{ chain f {{ type filter hook forward priority -5; udp dport {BY_NFTABLES} counter drop; }}; }}"
            );
            host.run("nft", [rule])?;
            send(&scene, "sharer", &outside, BY_NFTABLES, 120, 400)?;
            Ok(lost(
                "one",
                "transmit",
                "netfilter_drop",
                matched(&host, "forwarded")?,
            ))
        },
    )?;
    loses(&scene, "a rule of nftables' in INPUT", || {
        let rule = format!(
            "table inet entered {{ chain i {{ type filter hook input priority -5; udp dport {AT_HOST} counter drop; }}; }}"
        );
        host.run("nft", [rule])?;
        send(&scene, "one", &far.near(Version::V4), AT_HOST, 80, 400)?;
        Ok(lost(
            "one",
            "transmit",
            "netfilter_drop",
            matched(&host, "entered")?,
        ))
    })?;
    loses(&scene, "a rule in the container", || {
        let rule = format!(
            "table inet inside {{ chain i {{ type filter hook input priority 0; udp dport {INSIDE} counter drop; }}; }}"
        );
        two.run("nft", [rule])?;
        send(&scene, "one", &at_two, INSIDE, 70, 400)?;
        Ok(lost("two", "receive", "netfilter_drop", matched(&two, "inside")?))
    })?;
    loses(&scene, "a socket that nobody reads", || {
        let before = udp_count(&two, "RcvbufErrors")?;
        send(&scene, "one", &at_two, NEGLECTED, 500, 400)?;
        let overflows = udp_count(&two, "RcvbufErrors")? - before;
        ensure!(overflows > 100, "only {overflows} of 500 found no room");
        Ok(lost("two", "receive", "socket_rcvbuff", overflows))
    })?;
    loses(&scene, "a full queue of the container's", || {
        make_short_queue(&one, "eth0")?;
        send(&scene, "one", &outside, UDP, 100, 1000)?;
        let dropped = queue_drops(&one, "eth0")?;
        ensure!(dropped > 50, "only {dropped} of 100 found no room");
        one.run("tc", ["qdisc", "del", "dev", "eth0", "root"])?;
        Ok(lost("one", "transmit", "qdisc_drop", dropped))
    })?;
    loses(&scene, "a packet that is too big for the next network", || {
        host.run("ip", ["link", "set", &far.interface(), "mtu", "1000"])?;
        send(&scene, "one", &outside, UDP, 1, 1400)?;
        host.run("ip", ["link", "set", &far.interface(), "mtu", "1500"])?;
        Ok(lost("one", "transmit", "pkt_too_big", 1))
    })?;
    loses(&scene, "a closed port", || {
        let to = format!("{at_two}:9");
        scene.exec("sharer", &["traffic", "tcp-refused", &to, "30"])?;
        Ok(lost("two", "receive", "no_socket", 30))
    })?;
    host_wide_sums_are_whole(&scene)?;
    scene.stop_dtm()
}

/// Everything is somebody's or nobody's, and every reason is there from the start.
fn host_wide_sums_are_whole(scene: &Scene) -> Result<()> {
    let samples = scene.samples()?;
    let all: Vec<_> = samples.all("dtm_dropped_packets_total", &[]).collect();
    ensure!(all.len() > 50, "only {} reasons", all.len());
    for sample in all {
        let reason = [("reason", sample.labels["reason"].as_str())];
        let of = |name: &str| samples.sum(name, &reason);
        let parts =
            of("dtm_container_network_dropped_packets_total") + of("dtm_unattributed_dropped_packets_total");
        ensure!(
            sample.count() == parts,
            "{reason:?}: {} of {parts}",
            sample.count()
        );
    }
    let missed = samples.get("dtm_events_lost_total", &[("source", "kfree_skb")])?;
    ensure!(missed == 0, "{missed} drops were missed");
    Ok(())
}

/// The device's own count: what the host end cannot hand over.
#[test]
fn what_a_host_end_cannot_hand_over_is_the_devices_own_drop() -> Result<()> {
    const OWN: &str = "dtm_container_network_interface_dropped_total";
    let mut scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.make_silent_network()?;
    scene.run("one", SILENT, &["sleep", "3600"])?;
    let endpoint = scene.endpoint("one", SILENT)?;
    scene.wait_named(&endpoint)?;
    let host = scene.host().network()?;
    let address = scene.address("one", SILENT, false)?;
    let link = scene.engine.container_link("one", SILENT)?;
    let bridge = host.run("ip", ["-o", "route", "get", &address])?;
    let bridge = bridge
        .split_whitespace()
        .skip_while(|word| *word != "dev")
        .nth(1)
        .unwrap_or_default();
    let known = [
        "neighbour",
        "replace",
        &address,
        "lladdr",
        &link.address,
        "dev",
        bridge,
        "nud",
        "permanent",
    ];
    host.run("ip", known)?;
    scene
        .engine
        .inside("one")?
        .run("ip", ["link", "set", "eth0", "mtu", "500"])?;
    let own = |direction: &str| {
        let labels = endpoint.labels();
        let labels = [labels[0], labels[1], labels[2], ("direction", direction)];
        scene.samples()?.find(OWN, &labels)
    };
    let to = format!("{address}:9");
    let traffic = dtm_tests::far::traffic()?;
    // The host's side of the pair still takes packets that the container's does not.
    host.run(&traffic, ["udp-send", &to, "40", "1000"])?;
    let truth = scene.host().link_statistics(endpoint.host_end)?.tx_dropped;
    ensure!(truth >= 40, "the device says {truth} of 40");
    xtask::host::eventually(dtm_tests::scene::PATIENCE, "the device's own drops", || {
        Ok((own("receive")? == Some(truth) && own("transmit")? == Some(0)).then_some(()))
    })?;
    scene.stop_dtm()
}
