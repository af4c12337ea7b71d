//! Frames of every kind, a flood, and what two hosts say to each other.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{Version, traffic, wait_listening},
    packets::PacketBuilder,
};

use crate::stage::{Counted, SOON, Stage, UPLINK};

const FRAMES: u64 = 40;

/// Each with its protocol, and whether it asks for a connection.
fn frames() -> Vec<(&'static str, Vec<u8>, &'static str, bool)> {
    let ethernet = PacketBuilder::ethernet;
    let syn = |packet: PacketBuilder| {
        let mut frame = packet.build();
        frame[packet.transport_offset() + 13] = 0x02;
        frame
    };
    let mut icmpv6 = ethernet().ipv6().icmp().payload(40).build();
    icmpv6[14 + 6] = 58;
    vec![
        ("TCP", ethernet().ipv4().tcp().payload(100).build(), "tcp", false),
        (
            "TCP, IPv6",
            ethernet().ipv6().tcp().payload(100).build(),
            "tcp",
            false,
        ),
        ("a SYN", syn(ethernet().ipv4().tcp()), "tcp", true),
        ("a SYN, IPv6", syn(ethernet().ipv6().tcp()), "tcp", true),
        (
            "UDP",
            ethernet().ipv4().udp(9).payload(1000).build(),
            "udp",
            false,
        ),
        (
            "UDP, IPv6",
            ethernet().ipv6().udp(9).payload(60).build(),
            "udp",
            false,
        ),
        (
            "ICMP",
            ethernet().ipv4().icmp().payload(56).build(),
            "icmp",
            false,
        ),
        ("ICMPv6", icmpv6, "icmp", false),
        (
            "SCTP",
            ethernet().ipv4().sctp().payload(60).build(),
            "other",
            false,
        ),
        ("ARP", ethernet().arp().build(), "other", false),
        (
            "a tag, UDP",
            ethernet().vlan(7).ipv4().udp(9).payload(60).build(),
            "udp",
            false,
        ),
        (
            "two tags, a SYN",
            syn(ethernet().tag(0x88a8, 1).vlan(2).ipv4().tcp()),
            "tcp",
            true,
        ),
    ]
}

/// Nothing of what is sent gets past the host's firewall, which says so itself.
const WALL: &str = "table netdev wall {
    chain in { type filter hook ingress device near1 priority -500; counter drop; }
}";

/// With XDP a veth's own counter leaves out the Ethernet headers.
fn on_wire((packets, bytes): (u64, u64)) -> (u64, u64) {
    (packets, bytes + 14 * packets)
}

fn thrown_away(stage: &Stage) -> Result<u64> {
    let shown = stage.host.run("nft", ["list", "table", "netdev", "wall"])?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "packets");
    Ok(words.nth(1).context("a counter")?.parse()?)
}

#[test]
fn every_kind_of_frame_is_counted_although_the_firewall_drops_it() -> Result<()> {
    let stage = Stage::new(&["--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    stage.host.run("nft", [WALL])?;
    for (name, frame, protocol, is_syn) in frames() {
        let dropped = thrown_away(&stage)?;
        let (counted, kernel) = stage.grown(UPLINK, || stage.send("far0", FRAMES, &frame))?;
        let bytes = FRAMES * frame.len() as u64;
        let mut expected = nothing();
        expected.protocols.insert(protocol.to_owned(), (FRAMES, bytes));
        expected.syns = if is_syn { FRAMES } else { 0 };
        assert_eq!(counted, expected, "{name}");
        assert_eq!(on_wire(kernel), (FRAMES, bytes), "{name}: what the kernel counts");
        assert_eq!(
            thrown_away(&stage)? - dropped,
            FRAMES,
            "{name}: what the firewall drops"
        );
    }
    Ok(())
}

#[test]
fn a_flood_of_syns_is_counted_to_the_last() -> Result<()> {
    const FLOOD: u64 = 200_000;
    let stage = Stage::new(&["--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    stage.host.run("nft", [WALL])?;
    let packet = PacketBuilder::ethernet().ipv4().tcp();
    let mut frame = packet.build();
    frame[packet.transport_offset() + 13] = 0x02;
    let (counted, kernel) = stage.grown(UPLINK, || stage.send("far0", FLOOD, &frame))?;
    assert_eq!(counted.syns, FLOOD);
    assert_eq!(counted.all(), (FLOOD, FLOOD * frame.len() as u64));
    assert_eq!(kernel.0, FLOOD);
    Ok(())
}

/// In native mode there are no merged buffers: what is counted is what the kernel counts, to the byte.
#[test]
fn a_connection_is_what_the_kernel_counts() -> Result<()> {
    const BYTES: u64 = 20_000_000;
    const DATAGRAMS: u64 = 500;
    let stage = Stage::new(&["--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    let (tcp, udp) = (traffic()?, traffic()?);
    let _receivers = [
        stage.host.spawn(tcp, ["tcp-receive", "5001"])?,
        stage.host.spawn(udp, ["udp-receive", "5002"])?,
    ];
    for port in [5001, 5002] {
        wait_listening(&stage.host.network()?, port)?;
    }
    for version in Version::ALL {
        let near = stage.far.near(version);
        let (counted, kernel) = stage.grown(UPLINK, || {
            let (tcp, udp) = (version.port(&near, 5001), version.port(&near, 5002));
            stage.far.traffic(&["tcp-send", &tcp, &BYTES.to_string()])?;
            stage.far.send(&udp, DATAGRAMS, 300)
        })?;
        assert_eq!(counted.all(), on_wire(kernel), "{version:?}");
        let datagrams = DATAGRAMS * (14 + version.udp_headers() + 300);
        assert_eq!(counted.protocols["udp"], (DATAGRAMS, datagrams), "{version:?}");
        assert_eq!(counted.syns, 1, "{version:?}");
        ensure!(counted.protocols["tcp"].1 > BYTES, "{counted:?}");
    }
    Ok(())
}

/// A bridge has no driver: what goes up to the host through it is seen in the kernel's stack.
#[test]
fn at_a_bridge_it_counts_what_the_host_is_offered() -> Result<()> {
    let mut stage = Stage::without_dtm()?;
    stage.lay("port0")?;
    let make = "ip link add lan type bridge mcast_snooping 0
        sysctl -qw net.ipv6.conf.lan.disable_ipv6=1
        # A firewall at the bridge would throw away what no kernel has made.
        sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
        ip link set lan up
        ip link set port0 master lan";
    stage.host.run("sh", ["-euc", make])?;
    stage.start(&["--xdp", "lan"])?;
    stage.wait_mode("lan", Some("generic"), SOON)?;
    for (name, mut frame, protocol, is_syn) in frames() {
        // To everybody on the bridge, the host included.
        frame[..6].copy_from_slice(&[0xff; 6]);
        let (counted, kernel) = stage.grown("lan", || stage.send("port0", FRAMES, &frame))?;
        let mut expected = nothing();
        // The port has taken the outermost tag off.
        let is_tagged = [[0x81, 0x00], [0x88, 0xa8]]
            .iter()
            .any(|tag| frame[12..14] == *tag);
        let bytes = FRAMES * (frame.len() as u64 - if is_tagged { 4 } else { 0 });
        expected.protocols.insert(protocol.to_owned(), (FRAMES, bytes));
        expected.syns = if is_syn { FRAMES } else { 0 };
        assert_eq!(counted, expected, "{name}");
        assert_eq!(
            on_wire(kernel),
            (FRAMES, bytes),
            "{name}: of a bridge it is the same"
        );
    }
    Ok(())
}

fn nothing() -> Counted {
    Counted {
        protocols: ["tcp", "udp", "icmp", "other"]
            .map(|name| (name.to_owned(), (0, 0)))
            .into(),
        syns: 0,
    }
}
