//! Interface indices are neither dense nor unique: large ones, those that share a bucket of the index, and the same one
//! in two namespaces.

use anyhow::{Context as _, Result};
use dtm_tests::scene::PATIENCE;
use xtask::host::{EngineKind, eventually};

use crate::{
    readings::{Tally, Ways, during},
    stage::{
        Fact, Member, NOBODY, Stage, addressed, checksummed, experimental, hexadecimal, hold, member_by_hand,
    },
};

const FACTS: &[Fact] = &[
    (
        "large indices that share a bucket are counted apart",
        large_indices_that_share_a_bucket_are_counted_apart,
    ),
    (
        "the same index in another namespace is somebody else",
        the_same_index_in_another_namespace_is_somebody_else,
    ),
];

#[test]
fn any_index_is_counted_for_its_own_on_the_current_engine_with_tcx() -> Result<()> {
    hold(EngineKind::Current, "tcx", FACTS)
}

#[test]
fn any_index_is_counted_for_its_own_on_the_old_engine_with_clsact() -> Result<()> {
    hold(EngineKind::Old, "clsact", FACTS)
}

/// The index' buckets (`dtm_common::index`): indices this far apart share one.
const BUCKETS: u32 = 65_536;

/// Adds a pair to the network by hand: its host end has this index, its other end is the container's `interface`.
fn add_pair(stage: &Stage, to: &Member, ifindex: u32, interface: &str) -> Result<Member> {
    stage.host(&format!(
        "ip link add index {ifindex} name hand{ifindex} type veth peer name {interface}"
    ))?;
    let process = stage
        .scene
        .engine
        .docker(["inspect", "--format", "{{.State.Pid}}", &to.name])?;
    stage.host(&format!(
        "ip link set {interface} netns {process} address 02:00:00:01:00:01"
    ))?;
    stage.host(&format!(
        "ip link set hand{ifindex} master {} up",
        stage.bridge_name
    ))?;
    stage.ip(to, &format!("link set {interface} up"))?;
    let member = member_by_hand(stage, to, interface, ifindex)?;
    let port = ["bridge", "link", "show", "dev", &member.host_end];
    crate::readings::eventually_shows(&stage.scene, &port, "state forwarding")?;
    Ok(member)
}

/// Four interfaces, three of which share one bucket; each sends a number of frames of its own.
fn large_indices_that_share_a_bucket_are_counted_apart(stage: &Stage) -> Result<()> {
    let first = 200_000;
    let by_hand = [
        add_pair(stage, &stage.sender, first, "hand1")?,
        add_pair(stage, &stage.receiver, first + BUCKETS, "hand2")?,
        add_pair(stage, &stage.bystander, first + 2 * BUCKETS, "hand3")?,
        // And the bucket of an interface of Docker's own.
        add_pair(stage, &stage.bystander, stage.receiver.ifindex + BUCKETS, "hand4")?,
    ];
    let overflow = [("map", "index_overflow")];
    let entries = stage.scene.samples()?.get("dtm_bpf_map_entries", &overflow)?;
    assert_eq!(entries, 3, "those that came to a taken bucket");
    let places = [
        &by_hand[0].place,
        &by_hand[1].place,
        &by_hand[2].place,
        &by_hand[3].place,
        &stage.receiver.place,
    ];
    let all = [
        &by_hand[0],
        &by_hand[1],
        &by_hand[2],
        &by_hand[3],
        &stage.receiver,
    ];
    for (from, member) in all.into_iter().enumerate() {
        let count = 100 + from as u64;
        let hardware = [2, 0, 0, 1, 1, from as u8];
        let frame = addressed(experimental(286), NOBODY, hardware);
        let readings = during(&stage.scene, places, || stage.frames(member, count, &frame))?;
        for (at, reading) in readings.into_iter().enumerate() {
            let expected = Tally::of(count, 300);
            let mut ways = Ways::default();
            if at == from {
                ways.transmit = expected;
            }
            if at != from || stage.is_reflected(member)? {
                // An address no port is known for goes to all of them.
                ways.receive = expected;
            }
            assert_eq!(reading.ours, ways, "sent by {from}, at {at}");
            assert_eq!(
                reading.kernel.receive,
                ways.receive.frames(),
                "sent by {from}, at {at}"
            );
            assert_eq!(
                reading.kernel.transmit,
                ways.transmit.frames(),
                "sent by {from}, at {at}"
            );
        }
    }
    // One of a shared bucket goes: the others are still found, and a newcomer takes its place.
    stage.host(&format!("ip link del {}", by_hand[0].host_end))?;
    eventually(PATIENCE, "a place is free", || {
        let samples = stage.scene.samples()?;
        let named = samples.sum("dtm_interfaces", &[("state", "named")]);
        Ok((named == 6).then_some(()))
    })?;
    let newcomer = add_pair(stage, &stage.sender, first + 3 * BUCKETS, "hand5")?;
    let entries = stage.scene.samples()?.get("dtm_bpf_map_entries", &overflow)?;
    assert_eq!(entries, 3, "the newcomer has the bucket");
    let frame = addressed(experimental(286), NOBODY, [2, 0, 0, 1, 1, 0]);
    let places = [&newcomer.place, &by_hand[1].place, &by_hand[2].place];
    let readings = during(&stage.scene, places, || stage.frames(&newcomer, 50, &frame))?;
    assert_eq!(readings[0].ours.transmit, Tally::of(50, 300));
    assert_eq!(readings[1].ours.receive, Tally::of(50, 300));
    assert_eq!(readings[2].ours.receive, Tally::of(50, 300));
    for member in by_hand[1..].iter().chain([&newcomer]) {
        stage.host(&format!("ip link del {}", member.host_end))?;
    }
    eventually(PATIENCE, "the index is empty again", || {
        let entries = stage.scene.samples()?.get("dtm_bpf_map_entries", &overflow)?;
        Ok((entries == 0).then_some(()))
    })
}

/// A pair inside one container, of which one end has the index of another container's host end.
fn the_same_index_in_another_namespace_is_somebody_else(stage: &Stage) -> Result<()> {
    let (inside, victim) = (&stage.sender, &stage.receiver);
    let ifindex = victim.ifindex;
    stage.ip(
        inside,
        &format!("link add index {ifindex} name same0 type veth peer name same1"),
    )?;
    for end in ["same0", "same1"] {
        stage.ip(inside, &format!("link set {end} up"))?;
    }
    stage.ip(inside, "addr add 10.88.0.1/24 dev same0")?;
    let shown = stage.inside(inside, "ip", &["-o", "link", "show", "dev", "same0"])?;
    assert!(shown.starts_with(&format!("{ifindex}:")), "{shown}");
    let frame = hexadecimal(&addressed(experimental(386), [0xff; 6], [2, 0, 0, 0, 2, 1]));
    let readings = stage.during(|| {
        stage.traffic(inside, &["frames", "same0", "70", &frame])?;
        stage.traffic(inside, &["frames", "same1", "70", &frame])
    })?;
    for reading in readings {
        assert_eq!(reading.ours, Ways::default());
        assert_eq!(reading.kernel, Ways::default());
    }
    // What the kernel drops at it is the container's that has it inside: datagrams for a port nobody listens at.
    let hardware = same0_hardware(&shown).context("a hardware address")?;
    let datagram = dtm_tests::packets::PacketBuilder::ethernet()
        .ipv4_between("10.88.0.2".parse()?, "10.88.0.1".parse()?)
        .udp(9999)
        .payload(100)
        .build();
    let datagram = checksummed(addressed(datagram, hardware, [2, 0, 0, 0, 2, 2]));
    let dropped = "dtm_container_network_dropped_packets_total";
    let of = |name: &'static str| [("name", name), ("reason", "no_socket")];
    let before = stage.scene.samples()?;
    stage.traffic(inside, &["frames", "same1", "90", &hexadecimal(&datagram)])?;
    let after = eventually(PATIENCE, "the drops are counted", || {
        let samples = stage.scene.samples()?;
        let grown = samples.sum(dropped, &of("sender")) - before.sum(dropped, &of("sender"));
        Ok((grown >= 90).then_some(samples))
    })?;
    for (name, expected) in [("sender", 90), ("receiver", 0), ("bystander", 0)] {
        let grown = after.sum(dropped, &of(name)) - before.sum(dropped, &of(name));
        assert_eq!(grown, expected, "{name}");
    }
    stage.ip(inside, "link del same0")
}

/// The hardware address in a line of `ip -o link`.
fn same0_hardware(shown: &str) -> Option<[u8; 6]> {
    let (_, rest) = shown.split_once("link/ether ")?;
    let octets = rest.split_whitespace().next()?.split(':');
    let octets: Vec<u8> = octets
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect::<Option<_>>()?;
    octets[..].try_into().ok()
}
