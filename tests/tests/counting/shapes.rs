//! Packets of every shape: other MTUs, fragments, multicast and broadcast, what is no IP, IPv6 alone.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use dtm_tests::{
    packets::{PacketBuilder, SOURCE_V4, SOURCE_V6},
    scene::{Scene, growth},
};
use xtask::host::EngineKind;

use crate::{
    readings::{Tally, during},
    stage::{
        Fact, Member, NOBODY, Stage, addressed, checksummed, create_network, experimental, hexadecimal, hold,
    },
};

const FACTS: &[Fact] = &[
    ("fragments count as packets", fragments_count_as_packets),
    (
        "networks of other MTUs count exactly",
        networks_of_other_mtus_count_exactly,
    ),
    (
        "what goes to many is received by each",
        what_goes_to_many_is_received_by_each,
    ),
    (
        "what the host sends to many is received by each",
        what_the_host_sends_to_many_is_received_by_each,
    ),
    ("frames that are no IP count", frames_that_are_no_ip_count),
];

#[test]
fn every_shape_is_counted_on_the_current_engine_with_tcx() -> Result<()> {
    hold(EngineKind::Current, "tcx", FACTS)
}

#[test]
fn every_shape_is_counted_on_the_old_engine_with_clsact() -> Result<()> {
    hold(EngineKind::Old, "clsact", FACTS)
}

/// What a datagram of `payload` bytes is on a network of this MTU.
fn datagram(payload: u64, mtu: u64, ipv6: bool) -> Tally {
    let ip = if ipv6 { 40 } else { 20 };
    let data = payload + 8;
    if data + ip <= mtu {
        return Tally::of(1, 14 + ip + data);
    }
    // RFC 8200 §4.5 and RFC 791 §3.2: pieces of a multiple of 8 bytes; IPv6 says it in a header of 8 bytes.
    let header = if ipv6 { ip + 8 } else { ip };
    let packets = data.div_ceil((mtu - header) / 8 * 8);
    let bytes = data + packets * (14 + header);
    Tally {
        packets,
        bytes,
        wire_bytes: bytes,
    }
}

fn times(count: u64, tally: Tally) -> Tally {
    Tally {
        packets: count * tally.packets,
        bytes: count * tally.bytes,
        wire_bytes: count * tally.wire_bytes,
    }
}

/// Datagrams of several sizes from one to the other.
fn datagrams_count(stage: &Stage, from: &Member, to: &Member, mtu: u64, sizes: &[u64]) -> Result<()> {
    for (address, ipv6) in [(&to.ipv4, false), (&to.ipv6, true)] {
        let Some(address) = address else { continue };
        let address = format!("{address}:5002");
        for size in sizes {
            let command = ["udp-send", &address, "20", &size.to_string()];
            let places = [&from.place, &to.place];
            let [sender, receiver] = during(&stage.scene, places, || stage.traffic(from, &command))?;
            let expected = times(20, datagram(*size, mtu, ipv6));
            assert_eq!(sender.ours.transmit, expected, "{size} bytes over {mtu}");
            assert_eq!(sender.kernel.transmit, expected.frames());
            assert_eq!(receiver.ours.receive, expected);
            assert_eq!(receiver.kernel.receive, expected.frames());
        }
    }
    Ok(())
}

fn fragments_count_as_packets(stage: &Stage) -> Result<()> {
    let sizes = [1452, 1472, 1473, 5000, 65_000];
    datagrams_count(stage, &stage.sender, &stage.receiver, 1500, &sizes)
}

fn networks_of_other_mtus_count_exactly(stage: &Stage) -> Result<()> {
    for (mtu, sizes) in [(1280, [1200, 1260, 4000]), (9000, [1500, 8900, 30_000])] {
        let network = format!("mtu{mtu}");
        let option = format!("com.docker.network.driver.mtu={mtu}");
        create_network(&stage.scene, &network, &["--opt", &option])?;
        let (from, to) = (
            &stage.connect("sender", &network)?,
            &stage.connect("receiver", &network)?,
        );
        stage.introduce(&[from, to])?;
        datagrams_count(stage, from, to, mtu, &sizes)?;
        let address = to.ipv4.as_ref().context("an address")?;
        let command = ["tcp-send", &format!("{address}:5001"), "5000000"];
        let places = [&from.place, &to.place];
        let [sender, receiver] = during(&stage.scene, places, || stage.traffic(from, &command))?;
        let sent = sender.ours.transmit;
        assert_eq!(sent.bytes, sender.kernel.transmit.bytes);
        assert_eq!(receiver.ours.receive, sent);
        // Nothing but full segments but for a handful at the ends of what the program wrote.
        let full = 5_000_000_u64.div_ceil(mtu - 20 - 32);
        assert!(sent.packets >= full, "{sent:?} of {full}");
        let header = 14 + 20 + 32;
        let kernel = sender.kernel.transmit;
        assert_eq!(
            sent.wire_bytes,
            kernel.bytes + (sent.packets - kernel.packets) * header,
            "every buffer repeats its header for each further segment"
        );
    }
    Ok(())
}

/// Broadcast and multicast of both versions of IP, and what the bridge knows no port for.
fn to_many() -> [(&'static str, Vec<u8>); 4] {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let group_v6 = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 1, 2, 3);
    let frame =
        |packet: PacketBuilder, to: [u8; 6]| checksummed(addressed(packet.payload(100).build(), to, NOBODY));
    let ipv4 = PacketBuilder::ethernet().ipv4_between(SOURCE_V4, group).udp(9);
    let ipv6 = PacketBuilder::ethernet().ipv6_between(SOURCE_V6, group_v6).udp(9);
    [
        ("broadcast", frame(PacketBuilder::ethernet(), [0xff; 6])),
        ("IPv4 multicast", frame(ipv4, [1, 0, 0x5e, 1, 2, 3])),
        ("IPv6 multicast", frame(ipv6, [0x33, 0x33, 0, 1, 0, 2])),
        ("an unknown unicast", frame(PacketBuilder::ethernet(), NOBODY)),
    ]
}

fn what_goes_to_many_is_received_by_each(stage: &Stage) -> Result<()> {
    for (what, frame) in to_many() {
        let frame = addressed(
            frame.clone(),
            *frame.first_chunk().context("a frame")?,
            stage.sender.hardware,
        );
        let expected = Tally::of(40, frame.len() as u64);
        let places = [
            &stage.sender.place,
            &stage.receiver.place,
            &stage.bystander.place,
            &stage.bridge,
        ];
        let [sender, receiver, bystander, bridge] =
            during(&stage.scene, places, || stage.frames(&stage.sender, 40, &frame))?;
        assert_eq!(sender.ours.transmit, expected, "{what}");
        assert_eq!(sender.kernel.transmit, expected.frames(), "{what}");
        let back = if stage.is_reflected(&stage.sender)? {
            expected
        } else {
            Tally::default()
        };
        assert_eq!(sender.ours.receive, back, "{what}");
        assert_eq!(sender.kernel.receive, back.frames(), "{what}");
        for member in [receiver, bystander] {
            assert_eq!(member.ours.receive, expected, "{what}");
            assert_eq!(member.kernel.receive, expected.frames(), "{what}");
        }
        // To the host, too, where it listens: the kernel's own count says whether.
        let up = bridge.kernel.transmit;
        assert_eq!(bridge.ours.transmit.packets, up.packets, "{what}");
        assert_eq!(bridge.ours.transmit.bytes, up.bytes + 14 * up.packets, "{what}");
        assert_eq!(bridge.ours.receive, Tally::default(), "{what}");
    }
    Ok(())
}

fn what_the_host_sends_to_many_is_received_by_each(stage: &Stage) -> Result<()> {
    for (what, frame) in to_many() {
        let expected = Tally::of(40, frame.len() as u64);
        let command = ["frames", &stage.bridge_name, "40", &hexadecimal(&frame)];
        let places = [
            &stage.sender.place,
            &stage.receiver.place,
            &stage.bystander.place,
            &stage.bridge,
        ];
        let [sender, receiver, bystander, bridge] =
            during(&stage.scene, places, || stage.host_traffic(&command))?;
        assert_eq!(bridge.ours.receive.frames(), expected.frames(), "{what}");
        assert_eq!(bridge.kernel.receive, expected.frames(), "{what}");
        for member in [sender, receiver, bystander] {
            assert_eq!(member.ours.receive, expected, "{what}");
            assert_eq!(member.kernel.receive, expected.frames(), "{what}");
        }
    }
    Ok(())
}

/// ARP, a protocol nobody knows, nothing but a header, and what a bridge keeps to itself.
fn frames_that_are_no_ip_count(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let arp = PacketBuilder::ethernet().arp().build();
    let jumbo = experimental(1486);
    let bare = PacketBuilder::ethernet().build();
    for frame in [arp, jumbo, bare] {
        let frame = addressed(frame, to.hardware, from.hardware);
        let expected = Tally::of(25, frame.len() as u64);
        let [sender, receiver, bystander] = stage.during(|| stage.frames(from, 25, &frame))?;
        assert_eq!(sender.ours.transmit, expected);
        assert_eq!(sender.kernel.transmit, expected.frames());
        assert_eq!(receiver.ours.receive, expected);
        assert_eq!(receiver.kernel.receive, expected.frames());
        assert_eq!(bystander.ours.receive, Tally::default());
    }
    // LLDP's address: no bridge passes it on.
    let frame = addressed(experimental(46), [1, 0x80, 0xc2, 0, 0, 0x0e], from.hardware);
    let [sender, receiver, _] = stage.during(|| stage.frames(from, 25, &frame))?;
    assert_eq!(sender.ours.transmit, Tally::of(25, 60));
    assert_eq!(receiver.ours.receive, Tally::default());
    Ok(())
}

/// A network without IPv4, where the engine can make one; else one on which nobody uses it.
fn ipv6_alone_counts_exactly(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let scene = Scene::watched(kind, attach_mode)?;
    let alone: &[&str] = match kind {
        EngineKind::Current => &["--ipv4=false"],
        EngineKind::Old | EngineKind::Podman => &[],
    };
    let create = ["network", "create", "--ipv6", "--subnet", "fd00:d9::/64"];
    scene
        .engine
        .docker(create.iter().chain(alone).chain(&["alone"]))?;
    let receive = "traffic udp-receive 5002 & exec traffic tcp-receive 5001";
    scene.run("receiver", "alone", &["sh", "-c", receive])?;
    scene.run("sender", "alone", &["sleep", "3600"])?;
    let endpoints = [
        scene.endpoint("receiver", "alone")?,
        scene.endpoint("sender", "alone")?,
    ];
    for endpoint in &endpoints {
        scene.wait_named(endpoint)?;
    }
    let address = scene.address("receiver", "alone", true)?;
    let to = |port: u16| format!("{address}:{port}");
    scene.exec("sender", &["traffic", "tcp-send", &to(5001), "3000000"])?;
    scene.exec("sender", &["traffic", "udp-send", &to(5002), "300", "4000"])?;
    for endpoint in &endpoints {
        // Since their births: neighbours, routers and multicast reports included.
        let (kernel, counted) = scene.both(endpoint)?;
        assert_eq!(counted, kernel, "{endpoint:?}");
        let moved = growth((0, 0), counted);
        assert!(moved.0.max(moved.1) > 4_200_000, "{endpoint:?} moved {moved:?}");
    }
    Ok(())
}

#[test]
fn ipv6_alone_counts_exactly_on_the_current_engine_with_clsact() -> Result<()> {
    ipv6_alone_counts_exactly(EngineKind::Current, "clsact")
}

#[test]
fn ipv6_alone_counts_exactly_on_the_old_engine_with_tcx() -> Result<()> {
    ipv6_alone_counts_exactly(EngineKind::Old, "tcx")
}
