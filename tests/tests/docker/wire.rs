//! Packets are those of a wire: a GSO or GRO buffer counts as its segments.

use anyhow::{Context as _, Result};
use dtm_tests::daemon::Samples;
use xtask::host::EngineKind;

use dtm_tests::scene::{Endpoint, SILENT, Scene};

const PACKETS: &str = "dtm_container_network_transmit_packets_total";
const WIRE_BYTES: &str = "dtm_container_network_transmit_wire_bytes_total";
const BYTES: &str = "dtm_container_network_transmit_bytes_total";

/// `UDP_SEGMENT` buffers: 30 whole segments and one of 500 bytes in each.
const BUFFERS: u64 = 200;
const SEGMENTS: u64 = 31;
const PAYLOAD: u64 = 30 * 1000 + 500;
/// Ethernet, IPv4 and UDP.
const HEADERS: u64 = 14 + 20 + 8;

/// Two containers whose interfaces carry nothing but what the test sends: each knows the other's hardware address for
/// good, so that nobody asks.
fn silent_pair(scene: &Scene) -> Result<(Endpoint, Endpoint)> {
    scene.make_silent_network()?;
    scene.run(
        "receiver",
        SILENT,
        &[
            "sh",
            "-c",
            "traffic udp-receive 5002 & exec traffic tcp-receive 5001",
        ],
    )?;
    scene.run("sender", SILENT, &["sleep", "3600"])?;
    for (one, other) in [("sender", "receiver"), ("receiver", "sender")] {
        let (link, address) = (
            scene.engine.container_link(other, SILENT)?,
            scene.address(other, SILENT, false)?,
        );
        let process = scene
            .engine
            .docker(["inspect", "--format", "{{.State.Pid}}", one])?;
        let neighbour = [
            "ip",
            "neigh",
            "replace",
            &address,
            "lladdr",
            &link.address,
            "dev",
            "eth0",
        ];
        let inside = ["--target", &process, "--net"];
        scene.host().run(
            "nsenter",
            inside.iter().chain(&neighbour).chain(&["nud", "permanent"]),
        )?;
    }
    let pair = (
        scene.endpoint("sender", SILENT)?,
        scene.endpoint("receiver", SILENT)?,
    );
    scene.wait_named(&pair.0)?;
    scene.wait_named(&pair.1)?;
    Ok(pair)
}

/// Segments that TCP of a container's namespace has sent, by the kernel's own count.
fn segments_sent(scene: &Scene, container: &str) -> Result<u64> {
    let snmp = scene.exec(container, &["cat", "/proc/net/snmp"])?;
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("two lines of Tcp")?;
    let value = |wanted: &str| -> Result<u64> {
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_name, value) = pairs
            .find(|(name, _value)| *name == wanted)
            .with_context(|| wanted.to_owned())?;
        Ok(value.parse()?)
    };
    // OutSegs leaves the retransmitted ones out.
    Ok(value("OutSegs")? + value("RetransSegs")?)
}

fn sent(samples: &Samples, metric: &str, endpoint: &Endpoint) -> Result<u64> {
    samples.get(metric, &endpoint.labels())
}

fn tcp_packets_are_its_segments(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let scene = Scene::watched(kind, attach_mode)?;
    let (sender, receiver) = silent_pair(&scene)?;
    let to = format!("{}:5001", scene.address("receiver", SILENT, false)?);
    let before = scene.samples()?;
    let segments_before = (
        segments_sent(&scene, "sender")?,
        segments_sent(&scene, "receiver")?,
    );
    scene.exec("sender", &["traffic", "tcp-send", &to, "50000000"])?;
    // The last acknowledgement is on its way when the sender ends.
    scene.both(&sender)?;
    let segments = (
        segments_sent(&scene, "sender")?,
        segments_sent(&scene, "receiver")?,
    );
    let after = scene.samples()?;
    for (endpoint, before_segments, after_segments) in [
        (&sender, segments_before.0, segments.0),
        (&receiver, segments_before.1, segments.1),
    ] {
        let packets = sent(&after, PACKETS, endpoint)? - sent(&before, PACKETS, endpoint)?;
        assert_eq!(
            packets,
            after_segments - before_segments,
            "packets of {}",
            endpoint.container
        );
    }
    // The kernel counted buffers, far fewer.
    let statistics = scene.host().link_statistics(sender.host_end)?;
    let packets = sent(&after, PACKETS, &sender)?;
    assert!(
        statistics.rx_packets < packets / 2,
        "GSO was at work: {statistics:?} against {packets}"
    );
    Ok(())
}

#[test]
fn tcp_packets_are_its_segments_on_the_current_engine() -> Result<()> {
    tcp_packets_are_its_segments(EngineKind::Current, "tcx")
}

#[test]
fn tcp_packets_are_its_segments_on_the_old_engine() -> Result<()> {
    tcp_packets_are_its_segments(EngineKind::Old, "clsact")
}

#[test]
fn udp_segment_buffers_count_as_their_segments() -> Result<()> {
    let scene = Scene::watched(EngineKind::newest()?, "auto")?;
    let (sender, receiver) = silent_pair(&scene)?;
    let to = format!("{}:5002", scene.address("receiver", SILENT, false)?);
    let before = scene.samples()?;
    scene.exec(
        "sender",
        &[
            "traffic",
            "udp-send",
            &to,
            &BUFFERS.to_string(),
            &PAYLOAD.to_string(),
            "1000",
        ],
    )?;
    scene.both(&sender)?;
    let after = scene.samples()?;
    let grown = |metric: &str, endpoint: &Endpoint| -> Result<u64> {
        Ok(sent(&after, metric, endpoint)? - sent(&before, metric, endpoint)?)
    };
    assert_eq!(grown(PACKETS, &sender)?, BUFFERS * SEGMENTS);
    assert_eq!(grown(BYTES, &sender)?, BUFFERS * (PAYLOAD + HEADERS));
    assert_eq!(
        grown(WIRE_BYTES, &sender)?,
        BUFFERS * (PAYLOAD + SEGMENTS * HEADERS)
    );
    let arrived = PACKETS.replace("transmit", "receive");
    assert_eq!(
        grown(&arrived, &receiver)?,
        BUFFERS * SEGMENTS,
        "they arrive as they were sent"
    );
    assert_eq!(grown(PACKETS, &receiver)?, 0, "and nobody answers");
    Ok(())
}
