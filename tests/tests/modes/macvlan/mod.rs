//! Macvlan networks: a container's device has no other end in the host, so it is counted on itself.

pub(crate) mod stage;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{TCP, UDP, Version, traffic, udp_count},
    packets::PacketBuilder,
    scene::{IMAGE, PATIENCE, SILENT},
    tally::{Reading, Tally, Ways},
};
use xtask::host::{EngineKind, eventually};

use crate::{
    facts::{Fact, SENT_BYTES, agree, hold, only_these_series, received, sent},
    fares::{BARRED, CLOSED, asks, loses, serves},
    places::{Place, all_exact, bytes_exact, during, inside, read},
};
use stage::{BRIDGE, PRIVATE, Stage};

/// Holds a place to having moved at least so many packets: received and sent.
fn has_moved(place: &Place, reading: &Reading, received: u64, sent: u64) -> Result<()> {
    let Ways { receive, transmit } = reading.kernel;
    ensure!(
        receive.packets >= received && transmit.packets >= sent,
        "not everything passed {:?}: {reading:?}",
        place.names()
    );
    Ok(())
}

/// Among containers, and between them and who is outside: packet for packet.
fn bridge_mode_is_exact(stage: &Stage) -> Result<()> {
    let [first, second] = &stage.bridge;
    let far = stage.far.port(Version::V4, UDP);
    let readings = during(&stage.scene, &[first, second], || {
        stage.send(first, &far, 150, 600)?;
        stage.far.send(&stage.port(first, UDP)?, 80, 700)?;
        stage.send(first, &stage.port(second, UDP)?, 100, 800)?;
        stage.send(second, &stage.port(first, UDP)?, 40, 900)?;
        let address = stage.far.address(Version::V4);
        let ping = ["ping", "-c", "3", "-i", "0.1", &address];
        stage.run(second, "busybox", &ping).map(drop)
    })?;
    all_exact(&[first, second], &readings)?;
    has_moved(first, &readings[0], 120, 250)?;
    has_moved(second, &readings[1], 103, 43)
}

/// What one sends to all: the others' devices count an Ethernet header too many, dtm does not.
fn a_neighbours_broadcast_is_as_long_as_it_is(stage: &Stage) -> Result<()> {
    const FRAMES: u64 = 50;
    const SIZE: u64 = 500;
    let [first, second] = &stage.bridge;
    let frame = PacketBuilder::ethernet().payload(SIZE as usize - 14).build();
    let frame: Vec<_> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let frame = ["ff".repeat(6), frame.concat()[12..].to_owned()].concat();
    let device = || -> Result<u64> {
        let link = stage.scene.engine.container_link(&second.container, BRIDGE)?;
        let counted = inside(&stage.scene, &second.container)?.link_statistics()?;
        let counted = counted.get(&link.ifindex).context("its device")?;
        Ok(counted.rx_bytes)
    };
    let before = device()?;
    let readings = during(&stage.scene, &[first, second], || {
        let send = ["frames", "eth0", &FRAMES.to_string(), &frame];
        stage.run(first, &traffic()?, &send).map(drop)
    })?;
    agree("the kernel's count", device()? - before, FRAMES * (SIZE + 14))?;
    let truth = Tally::of(FRAMES, SIZE);
    agree("sent", readings[0].ours, sent(truth))?;
    agree("received", readings[1].ours, received(truth))
}

/// With who is outside, and nothing of each other.
fn private_mode_is_exact(stage: &Stage) -> Result<()> {
    let [third, fourth] = &stage.private;
    let far = stage.private_far.port(Version::V4, UDP);
    // It would not answer.
    let address = stage.scene.address(&fourth.container, PRIVATE, false)?;
    let hardware = stage
        .scene
        .engine
        .container_link(&fourth.container, PRIVATE)?
        .address;
    let known = [
        "neighbour",
        "replace",
        &address,
        "lladdr",
        &hardware,
        "dev",
        "eth0",
        "nud",
        "permanent",
    ];
    stage.run(third, "ip", &known)?;
    let readings = during(&stage.scene, &[third, fourth], || {
        stage.send(third, &far, 150, 600)?;
        stage.private_far.send(&stage.port(third, UDP)?, 80, 700)?;
        stage.send(third, &stage.port(fourth, UDP)?, 100, 800)
    })?;
    all_exact(&[third, fourth], &readings)?;
    has_moved(third, &readings[0], 80, 250)?;
    let heard = readings[1].kernel.receive.bytes;
    ensure!(heard < 800, "the other one has received {heard} bytes");
    Ok(())
}

/// Segments that the kernel never sees: their bytes.
fn connections_are_exact(stage: &Stage) -> Result<()> {
    let [first, second] = &stage.bridge;
    let readings = during(&stage.scene, &[first, second], || {
        let send = ["tcp-send", &stage.far.port(Version::V4, TCP), "2000000"];
        stage.run(first, &traffic()?, &send)?;
        let send = ["tcp-send", &stage.port(second, TCP)?, "1000000"];
        stage.run(first, &traffic()?, &send)?;
        let send = ["tcp-send", &stage.port(second, TCP)?, "1500000"];
        stage.far.traffic(&send).map(drop)
    })?;
    bytes_exact(&[first, second], &readings)?;
    let sent = readings[0].kernel.transmit.bytes;
    ensure!(sent > 3_000_000, "only {sent} bytes were sent");
    Ok(())
}

/// Segments, connections, refusals and drops of containers whose namespace is all that says whose a socket is.
fn connections_and_drops_are_the_kernels(stage: &Stage) -> Result<()> {
    let [first, second] = &stage.bridge;
    for (place, far) in [(first, &stage.far), (&stage.private[0], &stage.private_far)] {
        let name = &place.container;
        asks(&stage.scene, name, (1, 3), || {
            stage.run(
                place,
                &traffic()?,
                &["tcp-send", &far.port(Version::V4, TCP), "20000"],
            )?;
            let closed = Version::V4.port(&far.address(Version::V4), CLOSED);
            stage
                .run(place, &traffic()?, &["tcp-refused", &closed, "3"])
                .map(drop)
        })?;
        serves(&stage.scene, name, 1, || {
            let send = ["tcp-send", &stage.port(place, TCP)?, "30000"];
            far.traffic(&send).map(drop)
        })?;
        loses(&stage.scene, name, || {
            far.send(&stage.port(place, BARRED)?, 60, 400)
        })?;
    }
    asks(&stage.scene, &first.container, (1, 0), || {
        serves(&stage.scene, &second.container, 1, || {
            stage
                .run(
                    first,
                    &traffic()?,
                    &["tcp-send", &stage.port(second, TCP)?, "10000"],
                )
                .map(drop)
        })
    })
}

/// The one on its device, the other at its pair's host end.
fn a_bridge_network_besides_is_another_series(stage: &Stage) -> Result<()> {
    let places: Vec<_> = stage.both.iter().collect();
    let gateway = "{{(index .IPAM.Config 0).Gateway}}";
    let gateway = stage
        .scene
        .engine
        .docker(["network", "inspect", "--format", gateway, SILENT])?;
    let far = stage.far.port(Version::V4, UDP);
    let readings = during(&stage.scene, &places, || {
        stage.send(places[0], &far, 150, 600)?;
        let ping = ["ping", "-c", "5", "-i", "0.1", &gateway];
        stage.run(places[0], "busybox", &ping).map(drop)
    })?;
    all_exact(&places, &readings)?;
    has_moved(places[0], &readings[0], 0, 150)?;
    has_moved(places[1], &readings[1], 5, 5)?;
    let at_bridge = readings[1].kernel.transmit.packets;
    ensure!(at_bridge < 20, "{at_bridge} packets left over the bridge");
    Ok(())
}

/// Containers whose first act is to send: there is no device to ask any more, but who sent knows how much.
fn short_lives_are_whole(stage: &Stage) -> Result<()> {
    const LIVES: u64 = 5;
    const DATAGRAMS: u64 = 100;
    /// Ethernet, IPv4, UDP and the payload.
    const SIZE: u64 = 14 + 20 + 8 + 500;
    /// An ARP request or announcement.
    const ARP: u64 = 42;
    let far = stage.far.port(Version::V4, UDP);
    let before = udp_count(stage.far.network(), "InDatagrams")?;
    for number in 0..LIVES {
        let name = format!("short{number}");
        let run = ["run", "--rm", "--name", &name, "--network", BRIDGE, IMAGE];
        let send = ["traffic", "udp-send", &far, "100", "500"];
        stage.scene.engine.docker(run.iter().chain(&send))?;
    }
    let arrived = udp_count(stage.far.network(), "InDatagrams")? - before;
    agree("arrived", arrived, LIVES * DATAGRAMS)?;
    for number in 0..LIVES {
        let name = format!("short{number}");
        let labels = [
            ("name", name.as_str()),
            ("network", BRIDGE),
            ("interface", "eth0"),
        ];
        let shown = eventually(PATIENCE, &format!("the series of {name}"), || {
            let samples = stage.scene.samples()?;
            let is_there = samples.find(SENT_BYTES, &labels)?.is_some();
            Ok(is_there.then(|| Ways::shown(&samples, &labels)))
        })??;
        let asked = shown.transmit.packets.checked_sub(DATAGRAMS);
        let asked = asked.with_context(|| format!("{name} has sent {shown:?}"))?;
        ensure!(
            asked <= 8,
            "{name} has sent {asked} packets besides its datagrams"
        );
        agree(&name, shown.transmit.bytes, DATAGRAMS * SIZE + asked * ARP)?;
    }
    Ok(())
}

/// A restart gives the container another device; its series goes on.
fn a_restart_goes_on(stage: &Stage) -> Result<()> {
    let [_first, second] = &stage.bridge;
    let before = read(&stage.scene, &[second])?[0];
    let name = &second.container;
    stage.scene.engine.docker(["restart", "--time", "0", name])?;
    let again = Place::of_device(&stage.scene, name, BRIDGE)?;
    agree("its interface", &again.interface, &second.interface)?;
    let far = stage.far.port(Version::V4, UDP);
    stage.send(&again, &far, 100, 500)?;
    let after = read(&stage.scene, &[&again])?[0];
    has_moved(&again, &after, 0, 100)?;
    let of = |reading: &Reading| Ways {
        receive: reading.kernel.receive.bytes,
        transmit: reading.kernel.transmit.bytes,
    };
    let counted = Ways {
        receive: after.ours.receive.bytes,
        transmit: after.ours.transmit.bytes,
    };
    agree("bytes of both lives", counted, of(&before) + of(&after))
}

/// From their first packet on, and on nothing but their own devices: not on the one they share.
fn everything_since_birth_is_exact(stage: &Stage) -> Result<()> {
    let places = stage.places();
    bytes_exact(&places, &read(&stage.scene, &places)?)?;
    let names: Vec<_> = places.iter().map(|place| place.names()).collect();
    only_these_series(&stage.scene, &names)?;
    // What the containers of a network moved is its sum.
    let samples = stage.scene.samples()?;
    for network in [BRIDGE, PRIVATE] {
        let of = [("network", network), ("driver", "macvlan")];
        let sum = samples.get("dtm_network_containers_transmit_bytes_total", &of)?;
        agree(network, sum, samples.sum(SENT_BYTES, &of[..1]))?;
    }
    Ok(())
}

const FACTS: &[Fact<Stage>] = &[
    ("everything since birth is exact", everything_since_birth_is_exact),
    ("bridge mode is exact", bridge_mode_is_exact),
    (
        "a neighbour's broadcast is as long as it is",
        a_neighbours_broadcast_is_as_long_as_it_is,
    ),
    ("private mode is exact", private_mode_is_exact),
    ("connections are exact", connections_are_exact),
    (
        "connections and drops are the kernel's",
        connections_and_drops_are_the_kernels,
    ),
    (
        "a bridge network besides is another series",
        a_bridge_network_besides_is_another_series,
    ),
    (
        "everything since birth is still exact",
        everything_since_birth_is_exact,
    ),
    ("short lives are whole", short_lives_are_whole),
    ("a restart goes on", a_restart_goes_on),
];

#[test]
fn macvlan_networks_are_exact_on_the_old_engine() -> Result<()> {
    hold(&Stage::new(EngineKind::Old)?, FACTS)
}

#[test]
fn macvlan_networks_are_exact_on_the_current_engine() -> Result<()> {
    hold(&Stage::new(EngineKind::Current)?, FACTS)
}
