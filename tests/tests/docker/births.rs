//! From the first packet to the last: containers that are counted from their birth, however short their life.

use anyhow::Result;
use xtask::host::{EngineKind, EngineOptions, eventually};

use dtm_tests::{
    lanes::Lanes,
    scene::{FRONT, IMAGE, PATIENCE, SILENT, Scene},
};

const PACKETS: &str = "dtm_container_network_transmit_packets_total";
const BYTES: &str = "dtm_container_network_transmit_bytes_total";
const RECEIVED_BYTES: &str = "dtm_container_network_receive_bytes_total";
const NETWORK_RECEIVED_BYTES: &str = "dtm_network_containers_receive_bytes_total";
const NETWORK_BYTES: &str = "dtm_network_containers_transmit_bytes_total";

/// Datagrams a short-lived container sends as its first act, and their payload.
const DATAGRAMS: u64 = 100;
const PAYLOAD: u64 = 500;
/// Ethernet, IPv4 and UDP.
const HEADERS: u64 = 14 + 20 + 8;
/// An ARP request or answer.
const ARP: u64 = 42;

fn a_short_life_is_whole_and_named(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let scene = Scene::watched(kind, attach_mode)?;
    scene.run("receiver", FRONT, &["traffic", "udp-receive", "5002"])?;
    let to = format!("{}:5002", scene.address("receiver", FRONT, false)?);
    let of_network = [("network", FRONT)];
    scene.wait_named(&scene.endpoint("receiver", FRONT)?)?;
    let before = scene.samples()?.get(NETWORK_BYTES, &of_network)?;
    let (count, size) = (DATAGRAMS.to_string(), PAYLOAD.to_string());
    let send = ["traffic", "udp-send", &to, &count, &size];
    let run = ["run", "--rm", "--name", "short", "--network", FRONT, IMAGE];
    scene.engine.docker(run.iter().chain(&send))?;
    let labels = [("name", "short"), ("network", FRONT), ("interface", "eth0")];
    // It is gone by now, to the kernel and to Docker; its totals linger.
    let (packets, bytes) = eventually(PATIENCE, "the short life is named", || {
        let samples = scene.samples()?;
        let packets = samples.find(PACKETS, &labels)?;
        Ok(packets.zip(samples.find(BYTES, &labels)?))
    })?;
    // It had to ask for the receiver's hardware address, and perhaps to answer for its own.
    let asked = packets
        .checked_sub(DATAGRAMS)
        .unwrap_or_else(|| panic!("{packets} packets of {DATAGRAMS}"));
    assert!((1..=3).contains(&asked), "{asked} packets beside the datagrams");
    assert_eq!(bytes, DATAGRAMS * (PAYLOAD + HEADERS) + asked * ARP);
    // A sum that was there before it has grown by it, whatever the receiver sent in answer.
    let samples = scene.samples()?;
    let grown = samples.get(NETWORK_BYTES, &of_network)? - before;
    assert!(
        grown >= bytes && grown - bytes <= 4 * ARP,
        "the network's sum grew by {grown}, not {bytes}"
    );
    assert_eq!(samples.sum("dtm_unattributed_transmit_bytes_total", &[]), 0);
    Ok(())
}

#[test]
fn a_short_life_is_whole_and_named_on_the_current_engine_with_tcx() -> Result<()> {
    a_short_life_is_whole_and_named(EngineKind::Current, "tcx")
}

#[test]
fn a_short_life_is_whole_and_named_on_the_current_engine_with_clsact() -> Result<()> {
    a_short_life_is_whole_and_named(EngineKind::Current, "clsact")
}

#[test]
fn a_short_life_is_whole_and_named_on_the_old_engine() -> Result<()> {
    a_short_life_is_whole_and_named(EngineKind::Old, "auto")
}

/// Containers that are born and end beside each other.
const LANES: Lanes = Lanes { count: 10, lives: 5 };

/// Many at once: the engine and the attacher both wait for the kernel's one lock over links. Nobody else speaks on
/// their network, and everything they send reaches the receiver: what the kernel counts there is what they sent.
fn short_lives_side_by_side_are_all_whole_and_named(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    scene.make_silent_network()?;
    scene.start_dtm(&["--attach-mode", attach_mode])?;
    scene.run("receiver", SILENT, &["traffic", "udp-receive", "5002"])?;
    let receiver = scene.endpoint("receiver", SILENT)?;
    scene.wait_named(&receiver)?;
    let to = format!("{}:5002", scene.address("receiver", SILENT, false)?);
    let (heard_before, _counted) = scene.both(&receiver)?;
    let before = scene.samples()?;

    let (count, size) = (DATAGRAMS.to_string(), PAYLOAD.to_string());
    let names = LANES.run(&scene, SILENT, &["traffic", "udp-send", &to, &count, &size])?;
    let (mut sent, mut arrived, mut unheard) = (0, 0, 0);
    for name in &names {
        let labels = [
            ("name", name.as_str()),
            ("network", SILENT),
            ("interface", "eth0"),
        ];
        let (packets, bytes) = eventually(PATIENCE, &format!("{name} is named"), || {
            let samples = scene.samples()?;
            Ok(samples.find(PACKETS, &labels)?.zip(samples.find(BYTES, &labels)?))
        })?;
        // It had to ask for the receiver's hardware address. The bridge takes nothing from a port it does not forward
        // for yet: who speaks that early asks again after a second.
        let asked = packets.checked_sub(DATAGRAMS);
        let asked = asked.unwrap_or_else(|| panic!("{name}: {packets} packets of {DATAGRAMS}"));
        assert!(
            (1..=3).contains(&asked),
            "{name}: {asked} packets beside the datagrams"
        );
        assert_eq!(bytes, DATAGRAMS * (PAYLOAD + HEADERS) + asked * ARP, "{name}");
        sent += bytes;
        unheard += (asked - 1) * ARP;
        arrived += scene.samples()?.get(RECEIVED_BYTES, &labels)?;
    }
    let ((heard, answered), counted) = scene.both(&receiver)?;
    assert_eq!(counted, (heard, answered));
    assert_eq!(
        sent - unheard,
        heard - heard_before.0,
        "the kernel's count at the receiver"
    );

    // The sums of the network, which were there before them, have grown by exactly what its containers moved.
    let after = scene.samples()?;
    let grown = |name| {
        let of_network = [("network", SILENT)];
        Ok::<_, anyhow::Error>(after.get(name, &of_network)? - before.get(name, &of_network)?)
    };
    assert_eq!(grown(NETWORK_BYTES)?, sent + answered - heard_before.1);
    assert_eq!(grown(NETWORK_RECEIVED_BYTES)?, arrived + heard - heard_before.0);
    for direction in ["receive", "transmit"] {
        let name = format!("dtm_unattributed_{direction}_packets_total");
        assert_eq!(after.sum(&name, &[]), 0, "{name}");
    }
    Ok(())
}

#[test]
fn short_lives_side_by_side_are_all_whole_and_named_on_the_current_engine_with_tcx() -> Result<()> {
    short_lives_side_by_side_are_all_whole_and_named(EngineKind::Current, "tcx")
}

#[test]
fn short_lives_side_by_side_are_all_whole_and_named_on_the_current_engine_with_clsact() -> Result<()> {
    short_lives_side_by_side_are_all_whole_and_named(EngineKind::Current, "clsact")
}

#[test]
fn short_lives_side_by_side_are_all_whole_and_named_on_the_current_engine_as_dtm_chooses() -> Result<()> {
    short_lives_side_by_side_are_all_whole_and_named(EngineKind::Current, "auto")
}

#[test]
fn short_lives_side_by_side_are_all_whole_and_named_on_the_old_engine_with_tcx() -> Result<()> {
    short_lives_side_by_side_are_all_whole_and_named(EngineKind::Old, "tcx")
}

#[test]
fn short_lives_side_by_side_are_all_whole_and_named_on_the_old_engine_with_clsact() -> Result<()> {
    short_lives_side_by_side_are_all_whole_and_named(EngineKind::Old, "clsact")
}

#[test]
fn short_lives_side_by_side_are_all_whole_and_named_on_the_old_engine_as_dtm_chooses() -> Result<()> {
    short_lives_side_by_side_are_all_whole_and_named(EngineKind::Old, "auto")
}

/// What runs before dtm comes is taken in, with clsact, and starts at 0; what is born later gets TCX.
#[test]
fn what_runs_already_is_taken_in() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::newest()?))?;
    scene.run("old", FRONT, &["traffic", "udp-receive", "5002"])?;
    let old = scene.endpoint("old", FRONT)?;
    scene.start_dtm(&[])?;
    scene.wait_named(&old)?;
    scene.run("young", FRONT, &["sleep", "3600"])?;
    let young = scene.endpoint("young", FRONT)?;
    scene.wait_named(&young)?;
    let (old_kernel, old_counted) = scene.both(&old)?;
    let to = format!("{}:5002", scene.address("old", FRONT, false)?);
    scene.exec("young", &["traffic", "udp-send", &to, "100", "500"])?;
    let (kernel, counted) = scene.both(&old)?;
    assert_eq!(
        counted.0 - old_counted.0,
        kernel.0 - old_kernel.0,
        "received by the old one"
    );
    let (kernel, counted) = scene.both(&young)?;
    assert_eq!(counted, kernel, "all of the young one");
    let samples = scene.samples()?;
    let named = |mode| samples.get("dtm_interfaces", &[("state", "named"), ("mode", mode)]);
    assert_eq!((named("clsact")?, named("tcx")?), (1, 1));
    scene.stop_dtm()
}
