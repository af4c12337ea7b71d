//! Buffers of many segments count as what a wire carries: TCP, UDP and tunnels, both ways, both versions of IP.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::packets::PacketBuilder;
use xtask::host::EngineKind;

use crate::{
    readings::{Frames, Reading, Tally},
    stage::{Fact, Member, NOBODY, Stage, addressed, checksummed, hexadecimal, hold},
};

const FACTS: &[Fact] = &[
    ("TCP packets are TCP's segments", tcp_packets_are_its_segments),
    (
        "TCP with the host counts its segments too",
        tcp_with_the_host_counts_its_segments,
    ),
    (
        "buffers beyond 64 KiB count as their segments",
        big_buffers_count_as_their_segments,
    ),
    (
        "UDP_SEGMENT buffers count as their segments",
        udp_segment_buffers_count_as_their_segments,
    ),
    (
        "buffers nobody has counted count as their segments",
        uncounted_buffers_count_as_their_segments,
    ),
    (
        "a tunnel's buffers count as its datagrams",
        a_tunnels_buffers_count_as_its_datagrams,
    ),
];

#[test]
fn segments_are_counted_on_the_current_engine_with_tcx() -> Result<()> {
    hold(EngineKind::Current, "tcx", FACTS)
}

#[test]
fn segments_are_counted_on_the_old_engine_with_clsact() -> Result<()> {
    hold(EngineKind::Old, "clsact", FACTS)
}

/// Bytes before TCP's payload with the timestamps that every segment has.
const TCP_IPV4: u64 = 14 + 20 + 32;
const TCP_IPV6: u64 = 14 + 40 + 32;
/// A SYN has 8 bytes of options more: its largest segment, its window scale, that it takes selective
/// acknowledgements.
const SYN: u64 = 8;

/// Bytes of a bulk transfer.
const BULK: u64 = 20_000_000;

/// The kernel's own count of segments sent and of those sent again, in the network namespace of a process.
#[derive(Clone, Copy, Debug)]
struct Segments {
    sent: u64,
    again: u64,
}

impl Segments {
    fn parse(snmp: &str) -> Result<Self> {
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = lines.next().zip(lines.next()).context("two lines of Tcp")?;
        let value = |wanted: &str| -> Result<u64> {
            let mut pairs = names.split(' ').zip(values.split(' '));
            let found = pairs.find(|(name, _value)| *name == wanted);
            Ok(found.with_context(|| wanted.to_owned())?.1.parse()?)
        };
        Ok(Self {
            sent: value("OutSegs")?,
            again: value("RetransSegs")?,
        })
    }

    fn of(stage: &Stage, member: &Member) -> Result<Self> {
        Self::parse(&stage.inside(member, "cat", &["/proc/net/snmp"])?)
    }

    fn of_host(stage: &Stage) -> Result<Self> {
        Self::parse(&stage.host("cat /proc/net/snmp")?)
    }

    /// Segments on the wire since `before`: the kernel counts those it repeats apart.
    fn since(self, before: Self) -> u64 {
        self.sent - before.sent + self.again - before.again
    }
}

/// What growth and segments of a transfer must be: `segments` of two, sender first.
fn is_of_segments(sender: &Reading, receiver: &Reading, segments: (u64, u64), header: u64) {
    for (place, way, kernel, segments) in [
        (
            "sender sends",
            sender.ours.transmit,
            sender.kernel.transmit,
            segments.0,
        ),
        (
            "receiver is offered",
            receiver.ours.receive,
            receiver.kernel.receive,
            segments.0,
        ),
        (
            "receiver sends",
            receiver.ours.transmit,
            receiver.kernel.transmit,
            segments.1,
        ),
        (
            "sender is offered",
            sender.ours.receive,
            sender.kernel.receive,
            segments.1,
        ),
    ] {
        assert_eq!(way.packets, segments, "{place}");
        assert_eq!(way.bytes, kernel.bytes, "{place}");
        // Every buffer repeats its header for each further segment.
        assert_eq!(
            way.wire_bytes,
            kernel.bytes + (segments - kernel.packets) * header,
            "{place}: {way:?} {kernel:?}"
        );
    }
    let (sent, counted) = (sender.ours.transmit, sender.kernel.transmit);
    assert!(
        counted.packets < sent.packets / 2,
        "no buffers: {counted:?} of {sent:?}"
    );
}

/// A transfer from `sender` to `to`, an address of `receiver`.
fn transfer(stage: &Stage, from: &Member, to: &Member, address: &str, header: u64) -> Result<[Reading; 2]> {
    let places = [&from.place, &to.place];
    let command = ["tcp-send", &format!("{address}:5001"), &BULK.to_string()];
    let before = (Segments::of(stage, from)?, Segments::of(stage, to)?);
    let readings = crate::readings::during(&stage.scene, places, || stage.traffic(from, &command))?;
    let after = (Segments::of(stage, from)?, Segments::of(stage, to)?);
    let segments = (after.0.since(before.0), after.1.since(before.1));
    is_of_segments(&readings[0], &readings[1], segments, header);
    Ok(readings)
}

fn tcp_packets_are_its_segments(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let addresses = [&to.ipv4, &to.ipv6];
    for (address, header) in addresses.into_iter().zip([TCP_IPV4, TCP_IPV6]) {
        let address = address.as_ref().context("an address of each kind")?;
        transfer(stage, from, to, address, header)?;
    }
    Ok(())
}

/// Both ways; the host's own count of segments is that of the bridge's side.
fn tcp_with_the_host_counts_its_segments(stage: &Stage) -> Result<()> {
    let member = &stage.sender;
    let own = [&member.ipv4, &member.ipv6];
    for ((gateway, own), header) in stage.gateways.iter().zip(own).zip([TCP_IPV4, TCP_IPV6]) {
        let own = own.as_ref().context("an address of each kind")?;
        for is_sent in [true, false] {
            let to = if is_sent { gateway } else { own };
            let command = ["tcp-send", &format!("{to}:5001"), &BULK.to_string()];
            let mut segments = (0, 0);
            let [container, bridge] = stage.at_bridge(|| {
                // Between the scrapes: the host's own TCP is theirs too.
                let before = (Segments::of(stage, member)?, Segments::of_host(stage)?);
                if is_sent {
                    stage.traffic(member, &command)?;
                } else {
                    stage.host_traffic(&command)?;
                }
                let after = (Segments::of(stage, member)?, Segments::of_host(stage)?);
                segments = (after.0.since(before.0), after.1.since(before.1));
                Ok(())
            })?;
            let (out, into) = (container.ours.transmit, container.ours.receive);
            assert_eq!((out.packets, into.packets), segments, "sent: {is_sent}");
            assert_eq!(
                (bridge.ours.transmit.packets, bridge.ours.receive.packets),
                segments
            );
            for (way, kernel) in [(out, container.kernel.transmit), (into, container.kernel.receive)] {
                assert_eq!(way.bytes, kernel.bytes);
                let repeated = (way.packets - kernel.packets) * header;
                assert_eq!(way.wire_bytes, kernel.bytes + repeated, "sent: {is_sent}");
            }
            let (bulk, kernel) = if is_sent {
                (out, container.kernel.transmit)
            } else {
                (into, container.kernel.receive)
            };
            ensure!(
                kernel.packets < bulk.packets / 2,
                "no buffers: {kernel:?} of {bulk:?}"
            );
        }
    }
    Ok(())
}

/// "BIG TCP": with IPv6 the kernel puts a jumbo option of 8 bytes into such a buffer, which no segment has.
fn big_buffers_count_as_their_segments(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    stage.ip(from, "link set dev eth0 gso_max_size 190000")?;
    for member in [from, to] {
        let size = format!("ip link set dev {} gso_max_size 190000", member.host_end);
        stage.host(&size)?;
    }
    let address = to.ipv6.as_ref().context("an address")?;
    let command = ["tcp-send", &format!("{address}:5001"), &BULK.to_string()];
    // Of a transfer that sends something again, nobody but the sender knows how many bytes that was.
    let (mut whole, mut tries) = (None, 0);
    while whole.is_none() {
        tries += 1;
        ensure!(tries <= 20, "TCP sends something again in every transfer");
        let before = (Segments::of(stage, from)?, Segments::of(stage, to)?);
        let [sender, receiver, _] = stage.during(|| stage.traffic(from, &command))?;
        let after = (Segments::of(stage, from)?, Segments::of(stage, to)?);
        let segments = (after.0.since(before.0), after.1.since(before.1));
        assert_eq!(sender.ours.transmit.packets, segments.0);
        assert_eq!(receiver.ours.transmit.packets, segments.1);
        if after.0.again == before.0.again {
            whole = Some((sender, receiver));
        }
    }
    stage.ip(from, "link set dev eth0 gso_max_size 65536")?;
    let (sender, receiver) = whole.context("a transfer")?;
    let sent = sender.ours.transmit;
    assert_eq!(sent.wire_bytes, BULK + sent.packets * TCP_IPV6 + SYN);
    assert_eq!(sent.bytes, sender.kernel.transmit.bytes);
    assert_eq!(receiver.ours.receive, sent);
    // Answers are no buffers. They are of no fixed length: what comes out of order is said in an option.
    let (answered, kernel) = (receiver.ours.transmit, receiver.kernel.transmit);
    assert_eq!((answered.packets, answered.bytes), (kernel.packets, kernel.bytes));
    assert_eq!(answered.wire_bytes, answered.bytes);
    ensure!(
        sender.kernel.transmit.bytes / sender.kernel.transmit.packets > 65_536 * 3 / 4,
        "no big buffers: {:?}",
        sender.kernel.transmit
    );
    Ok(())
}

fn udp_segment_buffers_count_as_their_segments(stage: &Stage) -> Result<()> {
    // 30 whole segments and one of 500 bytes in each.
    let (buffers, payload, segments) = (200, 30 * 1000 + 500, 31);
    let (from, to) = (&stage.sender, &stage.receiver);
    for (address, header) in [(&to.ipv4, 14 + 20 + 8), (&to.ipv6, 14 + 40 + 8)] {
        let address = address.as_ref().context("an address of each kind")?;
        // To a socket that takes datagrams one by one, and one that takes whole buffers.
        for port in [5002, 5003] {
            let to = format!("{address}:{port}");
            let size = payload.to_string();
            let command = ["udp-send", &to, &buffers.to_string(), &size, "1000"];
            let [sender, receiver, _] = stage.during(|| stage.traffic(from, &command))?;
            let expected = Tally {
                packets: buffers * segments,
                bytes: buffers * (payload + header),
                wire_bytes: buffers * (payload + segments * header),
            };
            assert_eq!(sender.ours.transmit, expected);
            assert_eq!(receiver.ours.receive, expected);
            assert_eq!(sender.kernel.transmit, Frames::of(buffers, payload + header));
            assert_eq!(receiver.ours.transmit, Tally::default(), "nobody answers");
        }
    }
    Ok(())
}

/// Whoever hands a buffer over a packet socket, as virtual machines do, does not count its segments.
fn uncounted_buffers_count_as_their_segments(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let ethernet = PacketBuilder::ethernet;
    let (payload, segments) = (20_500_u64, 21);
    for (kind, packet, tag) in [
        ("tcp4", ethernet().ipv4().tcp(), 0),
        ("tcp6", ethernet().ipv6().tcp(), 0),
        ("udp", ethernet().ipv4().udp(9), 0),
        ("udp", ethernet().ipv6().udp(9), 0),
        ("tcp4", ethernet().vlan(5).ipv4().tcp(), 4),
        ("udp", ethernet().vlan(5).ipv6().udp(9), 4),
    ] {
        let header = packet.header_length() as u64;
        let frame = packet.payload(payload as usize).build();
        let frame = hexadecimal(&checksummed(addressed(frame, NOBODY, from.hardware)));
        let length = header + payload;
        let header_text = header.to_string();
        let on = |interface| ["buffers", interface, "20", &frame, kind, &header_text, "1000"];
        // Out of the host, before the kernel has looked at it: with the tag among the bytes.
        let command = on(&to.host_end);
        let [_, receiver, _] = stage.during(|| stage.host_traffic(&command))?;
        let mut expected = Tally {
            packets: 20 * segments,
            bytes: 20 * length,
            wire_bytes: 20 * (payload + segments * header),
        };
        assert_eq!(receiver.kernel.receive, Frames::of(20, length), "{kind} {tag}");
        assert_eq!(receiver.ours.receive, expected, "{kind} {tag}");
        // Out of a container: with the tag beside them. A bridge sends it to everybody.
        let command = on("eth0");
        let [sender, receiver, bystander] = stage.during(|| stage.traffic(from, &command))?;
        expected.bytes = 20 * (length - tag);
        assert_eq!(sender.kernel.transmit, Frames::of(20, length), "{kind} {tag}");
        assert_eq!(sender.ours.transmit, expected, "{kind} {tag}");
        assert_eq!(receiver.ours.receive, expected, "{kind} {tag}");
        assert_eq!(bystander.ours.receive, expected, "{kind} {tag}");
        assert_eq!(receiver.kernel.receive, Frames::of(20, length - tag));
    }
    Ok(())
}

/// VXLAN between two containers, over either version of IP.
fn a_tunnels_buffers_count_as_its_datagrams(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let pairs = [(&from.ipv4, &to.ipv4, 20), (&from.ipv6, &to.ipv6, 40)];
    for (number, (own, other, outer)) in pairs.into_iter().enumerate() {
        let own = own.as_deref().context("an address")?.trim_matches(['[', ']']);
        let other = other.as_deref().context("an address")?.trim_matches(['[', ']']);
        let ends = [(from, own, other, 1, 2), (to, other, own, 2, 1)];
        for (member, own, other, last, others) in ends {
            let device = format!("vxlan{number}");
            stage.ip(
                member,
                &format!(
                    "link add {device} address 02:00:00:00:07:0{last} type vxlan id 7 local {own} remote {other} dev eth0 \
                     dstport 4789"
                ),
            )?;
            stage.ip(member, &format!("addr add 10.99.{number}.{last}/24 dev {device}"))?;
            stage.ip(member, &format!("link set {device} up"))?;
            stage.ip(
                member,
                &format!(
                    "neigh replace 10.99.{number}.{others} lladdr 02:00:00:00:07:0{others} dev {device} nud permanent"
                ),
            )?;
        }
        // Ethernet, IP, UDP and VXLAN around the frame.
        let header = 14 + outer + 8 + 8 + TCP_IPV4;
        transfer(stage, from, to, &format!("10.99.{number}.2"), header)?;
        for member in [from, to] {
            stage.ip(member, &format!("link del vxlan{number}"))?;
        }
    }
    Ok(())
}
