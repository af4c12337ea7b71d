//! Connections: a control group sees every segment that a socket of its own sends or takes, and no other.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    capture::{Capture, FIN, Packet, RST, SYN},
    far::{TCP, Version, wait_listening},
    scene::PATIENCE,
    tally::{Tally, Ways},
};
use xtask::host::eventually;

use super::stage::{ONE, Stage, TWO};
use crate::facts::{agree, nothing};

/// Nobody listens here, nowhere.
const CLOSED: u16 = 9;

/// How often something is done where once could be chance.
const TIMES: u64 = 20;

/// What happens meanwhile: how much both containers grow, and the packets that pass the interface.
fn captured(stage: &Stage, action: impl FnOnce() -> Result<()>) -> Result<([Ways<Tally>; 2], Vec<Packet>)> {
    let capture = Capture::start(stage.scene.host(), &stage.far.interface())?;
    let grown = stage.during([ONE.name, TWO.name], action)?;
    // The refusal of a last connection from outside, which is nobody's, comes after all that was before.
    let last = stage.far.near(Version::V4);
    stage
        .far
        .traffic(&["tcp-refused", &Version::V4.port(&last, LAST), "1"])?;
    let is_last = |packet: &Packet| packet.ports.contains(&LAST);
    let mut packets =
        capture.finish(|packets| packets.iter().filter(|packet| is_last(packet)).count() == 2)?;
    packets.retain(|packet| !is_last(packet));
    Ok((grown, packets))
}

/// Where the last connection of a capture is refused.
const LAST: u16 = 10;

/// The packets as a container of the host's sees them.
fn both_ways<'a>(stage: &Stage, packets: impl IntoIterator<Item = &'a Packet>) -> Result<Ways<Tally>> {
    let near: IpAddr = stage.far.near(Version::V4).parse()?;
    let mut sum = Ways::default();
    for packet in packets {
        let one = Tally::of(1, packet.length);
        if packet.source == near {
            sum.transmit = sum.transmit + one;
        } else {
            sum.receive = sum.receive + one;
        }
    }
    Ok(sum)
}

/// Connections both ways, with segments cut by the interface and by the kernel before it.
pub(super) fn as_captured(stage: &Stage) -> Result<()> {
    let far = stage.far.port(Version::V4, TCP);
    let near = Version::V4.port(&stage.far.near(Version::V4), ONE.tcp);
    let connect = || {
        stage.traffic(ONE.name, &["tcp-send", &far, "3000000"])?;
        stage.far.traffic(&["tcp-send", &near, "2000000"]).map(drop)
    };
    // As buffers: their bytes.
    let ([one, two], packets) = captured(stage, connect)?;
    let truth = both_ways(stage, &packets)?;
    let bytes = |ways: Ways<Tally>| (ways.receive.bytes, ways.transmit.bytes);
    agree("bytes", bytes(one), bytes(truth))?;
    nothing("the other container", two)?;
    ensure!(
        truth.transmit.bytes > 3_000_000 && truth.receive.bytes > 2_000_000,
        "{truth:?} is not all of it"
    );
    ensure!(
        one.transmit.packets > 1500 && one.receive.packets > 1000,
        "{one:?} are no packets of a wire"
    );

    // As segments: packets, and their bytes on the wire.
    let segment = |how: &str| -> Result<()> {
        let name = stage.far.interface();
        let of = |interface| ["-K", interface, "tso", how];
        stage.scene.host().run("ethtool", of(&name))?;
        stage.far.network().run("ethtool", of("far0"))?;
        Ok(())
    };
    segment("off")?;
    let result = captured(stage, connect);
    segment("on")?;
    let ([one, two], packets) = result?;
    let truth = both_ways(stage, &packets)?;
    let wire = |ways: Ways<Tally>| (ways.receive.wire(), ways.transmit.wire());
    agree("packets and wire bytes", wire(one), wire(truth))?;
    nothing("the other container", two)
}

/// Who hangs up first and leaves has no socket any more when the other side does: the kernel takes that end and answers it
/// by itself. Two packets of such a connection are not seen, the other side's FIN and the last ACK.
pub(super) fn time_wait(stage: &Stage) -> Result<()> {
    const HELD: u16 = 5003;
    let port = HELD.to_string();
    let hold = stage
        .far
        .start_traffic(stage.scene.host(), &["tcp-hold", &port])?;
    wait_listening(stage.far.network(), HELD)?;
    let far = stage.far.port(Version::V4, HELD);
    let network = stage.scene.host().network()?;
    let wait_state = |state: &str| {
        eventually(PATIENCE, &format!("the connection is in {state}"), || {
            let sockets = network.run("ss", ["-Htn", "state", state, "dport", &port])?;
            Ok((!sockets.trim().is_empty()).then_some(()))
        })
    };
    let ([one, two], packets) = captured(stage, || {
        stage.traffic(ONE.name, &["tcp-leave", &far, "1000"])?;
        wait_state("fin-wait-2")?;
        drop(hold);
        wait_state("time-wait")
    })?;
    let near = stage.far.near(Version::V4).parse::<IpAddr>()?;
    let end = packets
        .iter()
        .position(|packet| packet.source != near && packet.flags & FIN != 0);
    let (seen, unseen) = packets.split_at(end.context("the other side hangs up")?);
    let sources: Vec<_> = unseen.iter().map(|packet| packet.source == near).collect();
    agree(
        "the last packets are its end and the answer",
        sources,
        vec![false, true],
    )?;
    agree("the others", one, both_ways(stage, seen)?)?;
    nothing("the other container", two)
}

/// From outside to where nobody listens: no socket, no control group. From a container: its own socket, its own numbers.
pub(super) fn refusals(stage: &Stage) -> Result<()> {
    let times = TIMES.to_string();
    let near = Version::V4.port(&stage.far.near(Version::V4), CLOSED);
    let (grown, packets) = captured(stage, || {
        stage.far.traffic(&["tcp-refused", &near, &times]).map(drop)
    })?;
    for grown in grown {
        nothing("refused in the host", grown)?;
    }
    are_refusals(&packets)?;

    let far = stage.far.port(Version::V4, CLOSED);
    let ([one, two], packets) = captured(stage, || stage.traffic(ONE.name, &["tcp-refused", &far, &times]))?;
    are_refusals(&packets)?;
    agree("refused elsewhere", one, both_ways(stage, &packets)?)?;
    nothing("the other container", two)
}

/// As many requests, and as many refusals.
fn are_refusals(packets: &[Packet]) -> Result<()> {
    let with = |flag: u8| packets.iter().filter(|packet| packet.flags & flag != 0).count() as u64;
    agree("requests and refusals", (with(SYN), with(RST)), (TIMES, TIMES))
}
