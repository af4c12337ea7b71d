//! Where dtm and the kernel's own counters differ, and by how much: the table of docs/counting.md.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{packets::PacketBuilder, scene::PATIENCE};
use xtask::host::{EngineKind, eventually};

use crate::{
    readings::{Frames, Tally, Ways, eventually_shows},
    stage::{Fact, Stage, addressed, experimental, hexadecimal, hold, traffic_path},
};

const FACTS: &[Fact] = &[
    (
        "a tag in a container's frame is off before dtm counts",
        a_tag_in_a_frame_is_off_before_dtm_counts,
    ),
    (
        "what bypasses the qdisc bypasses dtm",
        what_bypasses_the_qdisc_bypasses_dtm,
    ),
    (
        "what an interface that is down is offered counts",
        what_an_interface_that_is_down_is_offered_counts,
    ),
    (
        "what a qdisc drops after dtm counts",
        what_a_qdisc_drops_after_dtm_counts,
    ),
    (
        "what a later program drops counts",
        what_a_later_program_drops_counts,
    ),
    (
        "with XDP inside the kernel counts segments and dtm buffers",
        with_xdp_inside_the_kernel_counts_segments,
    ),
    (
        "GRO at the host end merges before dtm counts",
        gro_at_the_host_end_merges_before_dtm_counts,
    ),
    (
        "a bridge leaves out what it received of Ethernet's header",
        a_bridge_leaves_out_ethernets_header,
    ),
];

#[test]
fn differences_to_the_kernel_are_exact_on_the_current_engine_with_tcx() -> Result<()> {
    hold(EngineKind::Current, "tcx", FACTS)
}

#[test]
fn differences_to_the_kernel_are_exact_on_the_current_engine_with_clsact() -> Result<()> {
    hold(EngineKind::Current, "clsact", FACTS)
}

#[test]
fn differences_to_the_kernel_are_exact_on_the_old_engine_with_tcx() -> Result<()> {
    hold(EngineKind::Old, "tcx", FACTS)
}

#[test]
fn differences_to_the_kernel_are_exact_on_the_old_engine_with_clsact() -> Result<()> {
    hold(EngineKind::Old, "clsact", FACTS)
}

/// The kernel counts the tag when a frame enters the host end, where it takes it off into metadata before TC. On the
/// way out to the next container it is still there, where neither counts it.
fn a_tag_in_a_frame_is_off_before_dtm_counts(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let one = PacketBuilder::ethernet().vlan(7).payload(100);
    let two = PacketBuilder::ethernet().tag(0x88a8, 8).vlan(7).payload(100);
    for (frame, length) in [(one, 14 + 4 + 100), (two, 14 + 8 + 100)] {
        let frame = addressed(frame.build(), to.hardware, from.hardware);
        let [sender, receiver, _] = stage.during(|| stage.frames(from, 50, &frame))?;
        assert_eq!(sender.kernel.transmit, Frames::of(50, length));
        assert_eq!(sender.ours.transmit, Tally::tagged(50, length - 4, 4));
        assert_eq!(receiver.kernel.receive, Frames::of(50, length - 4));
        assert_eq!(receiver.ours.receive, Tally::tagged(50, length - 4, 4));
        // In a frame of the host's the tag is a part of the bytes, for both.
        let command = ["frames", &to.host_end, "30", &hexadecimal(&frame)];
        let [_, receiver, _] = stage.during(|| stage.host_traffic(&command))?;
        assert_eq!(receiver.kernel.receive, Frames::of(30, length));
        assert_eq!(receiver.ours.receive, Tally::of(30, length));
    }
    Ok(())
}

fn what_bypasses_the_qdisc_bypasses_dtm(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let frame = addressed(experimental(86), to.hardware, from.hardware);
    let command = ["frames", &to.host_end, "60", &hexadecimal(&frame), "bypass"];
    let [_, receiver, _] = stage.during(|| stage.host_traffic(&command))?;
    assert_eq!(receiver.kernel.receive, Frames::of(60, 100));
    assert_eq!(receiver.ours.receive, Tally::default());
    let [_, receiver, _] = stage.during(|| stage.host_traffic(&command[..4]))?;
    assert_eq!(receiver.kernel.receive, Frames::of(60, 100));
    assert_eq!(receiver.ours.receive, Tally::of(60, 100));
    // A container cannot go past dtm: that is in another namespace's qdisc.
    let command = ["frames", "eth0", "60", &hexadecimal(&frame), "bypass"];
    let [sender, receiver, _] = stage.during(|| stage.traffic(from, &command))?;
    assert_eq!(sender.kernel.transmit, Frames::of(60, 100));
    assert_eq!(sender.ours.transmit, Tally::of(60, 100));
    assert_eq!(receiver.ours.receive, Tally::of(60, 100));
    Ok(())
}

fn what_an_interface_that_is_down_is_offered_counts(stage: &Stage) -> Result<()> {
    // Who goes down loses routes and neighbours: somebody no other fact needs them of.
    let (from, to) = (&stage.sender, &stage.bystander);
    let frame = addressed(experimental(186), to.hardware, from.hardware);
    stage.ip(to, "link set eth0 down")?;
    let show = ["ip", "link", "show", "dev", &to.host_end];
    eventually_shows(&stage.scene, &show, "NO-CARRIER")?;
    let command = ["frames", &to.host_end, "40", &hexadecimal(&frame)];
    let [_, _, bystander] = stage.during(|| stage.host_traffic(&command))?;
    assert_eq!(bystander.kernel.receive, Frames::default());
    assert_eq!(bystander.ours.receive, Tally::of(40, 200));
    // A bridge does not offer it.
    let [sender, _, bystander] = stage.during(|| stage.frames(from, 40, &frame))?;
    assert_eq!(sender.ours.transmit, Tally::of(40, 200));
    assert_eq!(bystander.ours, Ways::default());
    stage.ip(to, "link set eth0 up")?;
    eventually_shows(&stage.scene, &show, "state UP")?;
    // A bridge takes a moment to learn that the port forwards again.
    let port = ["bridge", "link", "show", "dev", &to.host_end];
    eventually_shows(&stage.scene, &port, "state forwarding")?;
    let [_, _, bystander] = stage.during(|| stage.host_traffic(&command))?;
    assert_eq!(bystander.kernel.receive, Frames::of(40, 200));
    assert_eq!(bystander.ours.receive, Tally::of(40, 200));
    Ok(())
}

fn what_a_qdisc_drops_after_dtm_counts(stage: &Stage) -> Result<()> {
    let to = &stage.receiver;
    let queue = format!("dev {} root tbf rate 8mbit burst 5000 limit 10000", to.host_end);
    stage.host(&format!("tc qdisc add {queue}"))?;
    let address = format!("{}:5002", to.ipv4.as_ref().context("an address")?);
    let command = ["udp-send", &address, "500", "1000"];
    let length = 14 + 20 + 8 + 1000;
    let [sender, receiver, _] = stage.during(|| stage.traffic(&stage.sender, &command))?;
    let dropped = dropped_by_queue(stage, &to.host_end)?;
    stage.host(&format!("tc qdisc del {queue}"))?;
    ensure!(dropped > 0, "500 datagrams at once did not overflow 10 kB");
    assert_eq!(sender.kernel.transmit, Frames::of(500, length));
    assert_eq!(sender.ours.transmit, Tally::of(500, length));
    assert_eq!(receiver.ours.receive, Tally::of(500, length));
    assert_eq!(receiver.kernel.receive, Frames::of(500 - dropped, length));
    Ok(())
}

/// What the queue has dropped, once it is empty.
fn dropped_by_queue(stage: &Stage, interface: &str) -> Result<u64> {
    eventually(PATIENCE, "the queue is empty", || {
        let shown = stage.host(&format!("tc -s -j qdisc show dev {interface} root"))?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let value = |name: &str| shown[0][name].as_u64().with_context(|| name.to_owned());
        Ok(if value("backlog")? == 0 {
            Some(value("drops")?)
        } else {
            None
        })
    })
}

/// `TC_ACT_SHOT` from a program that runs after ours.
fn what_a_later_program_drops_counts(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let address = format!("{}:5002", to.ipv4.as_ref().context("an address")?);
    let command = ["udp-send", &address, "100", "500"];
    let length = 14 + 20 + 8 + 500;
    for (interface, side) in [(&to.host_end, "egress"), (&from.host_end, "ingress")] {
        // dtm may have made one already.
        stage
            .host(&format!("tc qdisc add dev {interface} clsact"))
            .or_else(|_exists| stage.host(&format!("tc qdisc show dev {interface} clsact")))?;
        let place = ["dev", interface, side, "prio", "100", "protocol", "all"];
        let drop = ["bpf", "da", "bytecode", "1,6 0 0 2,"];
        let add = ["filter", "add"].iter().chain(&place).chain(&drop);
        stage.scene.host().run("tc", add)?;
        let [sender, receiver, _] = stage.during(|| stage.traffic(from, &command))?;
        let delete = ["filter", "del"].iter().chain(&place[..5]);
        stage.scene.host().run("tc", delete)?;
        // What comes in has been counted by the kernel before any program runs.
        assert_eq!(sender.kernel.transmit, Frames::of(100, length), "{side}");
        assert_eq!(sender.ours.transmit, Tally::of(100, length), "{side}");
        let offered = if side == "egress" { 100 } else { 0 };
        assert_eq!(receiver.kernel.receive, Frames::default(), "{side}");
        assert_eq!(receiver.ours.receive, Tally::of(offered, length), "{side}");
    }
    Ok(())
}

/// A veth with XDP takes no GSO buffers, so the other end splits them, after TC. Where a veth receives through NAPI,
/// for XDP or GRO, the kernel counts a frame when its Ethernet header is off. What finds that end's ring full is the host
/// end's drop.
fn with_xdp_inside_the_kernel_counts_segments(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    let program = stage.start_inside(to, &traffic_path()?, &["xdp-pass", "eth0"])?;
    eventually(PATIENCE, "XDP is attached", || {
        Ok(program.log().contains("attached").then_some(()))
    })
    .map_err(|error| program.explain(&error))?;
    let address = format!("{}:5001", to.ipv4.as_ref().context("an address")?);
    let command = ["tcp-send", &address, "5000000"];
    let dropped = || Ok::<_, anyhow::Error>(stage.scene.host().link_statistics(to.ifindex)?.tx_dropped);
    let before = dropped()?;
    let [sender, receiver, _] = stage.during(|| stage.traffic(from, &command))?;
    let dropped = dropped()? - before;
    drop(program);
    let (offered, sent) = (receiver.ours.receive, sender.kernel.transmit);
    let (wire, taken) = (offered.wire().without_ethernet(), receiver.kernel.receive);
    assert_eq!(taken.packets + dropped, wire.packets);
    let missing = wire.bytes - taken.bytes;
    ensure!(
        missing <= dropped * 1500 && (missing > 0) == (dropped > 0),
        "{dropped} segments dropped, {missing} bytes are missing"
    );
    // What the sender gave away are the same buffers.
    assert_eq!(offered.bytes, sent.bytes);
    assert_eq!(sender.ours.transmit, offered);
    ensure!(sent.packets < offered.packets / 2, "{sent:?} are no buffers");
    // The other way nothing differs.
    assert_eq!(receiver.ours.transmit.bytes, receiver.kernel.transmit.bytes);
    Ok(())
}

/// Counted by the kernel one by one as the container sent them, merged before they reach TC.
fn gro_at_the_host_end_merges_before_dtm_counts(stage: &Stage) -> Result<()> {
    let (from, to) = (&stage.sender, &stage.receiver);
    stage.inside(
        from,
        "ethtool",
        &["-K", "eth0", "tso", "off", "tx-udp-segmentation", "off"],
    )?;
    stage.host(&format!(
        "ethtool -K {} gro on rx-udp-gro-forwarding on",
        from.host_end
    ))?;
    let address = to.ipv4.as_ref().context("an address")?;
    let tcp = ["tcp-send", &format!("{address}:5001"), "5000000"];
    // No socket of the host's has this port: where one could be meant, the kernel does not merge.
    let udp = ["udp-send", &format!("{address}:5003"), "100", "30500", "1000"];
    for command in [&tcp[..], &udp[..]] {
        let [sender, receiver, _] = stage.during(|| stage.traffic(from, command))?;
        let (sent, merged) = (sender.ours.transmit, receiver.kernel.receive);
        assert_eq!(
            sender.kernel.transmit,
            sent.wire().without_ethernet(),
            "{command:?}"
        );
        assert_eq!(sent.bytes, merged.bytes, "{command:?}");
        assert_eq!(receiver.ours.receive, sent, "{command:?}");
        ensure!(
            merged.packets < sent.packets / 2,
            "{merged:?} are not merged: {command:?}"
        );
        if command == udp {
            let bytes = 100 * (30_500 + 31 * 42);
            assert_eq!(sent.wire(), Frames { packets: 3100, bytes });
        }
    }
    stage.inside(
        from,
        "ethtool",
        &["-K", "eth0", "tso", "on", "tx-udp-segmentation", "on"],
    )?;
    let back = format!("ethtool -K {} gro off rx-udp-gro-forwarding off", from.host_end);
    stage.host(&back).map(drop)
}

/// A bridge counts what it hands to the host without its Ethernet header, and what the host sends with it.
fn a_bridge_leaves_out_ethernets_header(stage: &Stage) -> Result<()> {
    for (gateway, own) in stage
        .gateways
        .iter()
        .zip([&stage.sender.ipv4, &stage.sender.ipv6])
    {
        let udp = ["udp-send", &format!("{gateway}:5002"), "100", "700"];
        let tcp = ["tcp-send", &format!("{gateway}:5001"), "2000000"];
        let [sender, bridge] = stage.at_bridge(|| {
            stage.traffic(&stage.sender, &udp)?;
            stage.traffic(&stage.sender, &tcp)
        })?;
        let (out, counted) = (bridge.ours.transmit, bridge.kernel.transmit);
        assert_eq!(
            sender.kernel.transmit.without_ethernet(),
            counted,
            "the buffers of both"
        );
        assert_eq!(out.bytes, counted.bytes + 14 * counted.packets);
        assert_eq!(out.bytes, sender.ours.transmit.bytes);
        assert_eq!(out.packets, sender.ours.transmit.packets);
        assert_eq!(bridge.ours.receive.bytes, bridge.kernel.receive.bytes);
        let own = own.as_ref().context("an address")?;
        let udp = ["udp-send", &format!("{own}:5002"), "100", "700"];
        let [sender, bridge] = stage.at_bridge(|| stage.host_traffic(&udp))?;
        assert_eq!(bridge.ours.receive.frames(), bridge.kernel.receive);
        assert_eq!(bridge.kernel.receive, sender.kernel.receive);
        assert_eq!(bridge.kernel.receive.packets, 100);
        assert_eq!(bridge.ours.transmit, Tally::default());
    }
    Ok(())
}
