//! A fixed pattern of traffic across six containers of different modes: the sums agree, nothing is counted twice and
//! nothing is missing.

use anyhow::{Result, ensure};
use dtm_tests::{
    daemon::Samples,
    far::{Far, UDP, Version, traffic, wait_listening},
    networks::{introduce, make_macvlan, make_overlay, make_swarm},
    paths::sums_agree,
    scene::{BACK, FRONT, PATIENCE, Scene},
    tally::{Frames, Reading, Tally, Ways},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::{
    facts::{agree, only_these_series, series},
    host::stage::{datagrams, labels},
    macvlan::stage::BRIDGE,
    overlay::stage::OVERLAY,
    places::{Place, all_exact, inside, read},
};

/// What everybody sends, to each of whom it can reach.
const DATAGRAMS: u64 = 100;
const SIZE: u64 = 700;
/// Where the container on the host's network receives.
const OPEN_UDP: u16 = 6001;

struct Stage {
    // In the order in which they have to end.
    far: Far,
    mac_far: Far,
    /// Of all that have interfaces: on two bridge networks, on the overlay network and out of it, and a device.
    places: [Place; 5],
    scene: Scene,
}

impl Stage {
    /// One node that is a Swarm of its own, and a container in each mode.
    fn new(kind: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(kind))?;
        scene.start_dtm(&[])?;
        let (far, mac_far) = (Far::new(scene.host(), 1)?, Far::new(scene.host(), 2)?);
        make_swarm(&scene, "127.0.0.1")?;
        make_overlay(&scene, OVERLAY)?;
        make_macvlan(&scene, &mac_far, BRIDGE, "bridge")?;
        let udp = UDP.to_string();
        let receive = ["traffic", "udp-receive", &udp];
        let networks = [
            ("bridged", FRONT),
            ("behind", BACK),
            ("spread", OVERLAY),
            ("mac", BRIDGE),
        ];
        for (name, network) in networks {
            scene.run(name, network, &receive)?;
            wait_listening(&inside(&scene, name)?, UDP)?;
        }
        scene.run("sidecar", "container:bridged", &["sleep", "3600"])?;
        let open = ["traffic", "udp-receive", &OPEN_UDP.to_string()];
        scene.run("open", "host", &open)?;
        wait_listening(&scene.host().network()?, OPEN_UDP)?;
        let places = [
            Place::on_bridge(&scene, "bridged", FRONT)?,
            Place::on_bridge(&scene, "behind", BACK)?,
            Place::on_overlay(&scene, "spread", OVERLAY)?,
            Place::on_gateway_bridge(&scene, "spread", OVERLAY)?,
            Place::of_device(&scene, "mac", BRIDGE)?,
        ];
        introduce(&scene, &mac_far, "mac", BRIDGE)?;
        for place in &places {
            place.wait_shown(&scene)?;
        }
        let stage = Self {
            far,
            mac_far,
            places,
            scene,
        };
        let mut names: Vec<_> = stage.places.iter().map(Place::names).collect();
        names.push(["open", "host", ""]);
        only_these_series(&stage.scene, &names)?;
        Ok(stage)
    }

    /// Everybody sends to whom it reaches, some through others' interfaces, and somebody outside answers.
    fn pattern(&self) -> Result<()> {
        let (count, size) = (DATAGRAMS.to_string(), SIZE.to_string());
        let send = |from: &str, to: &str| {
            let command = ["traffic", "udp-send", to, &count, &size];
            self.scene.exec(from, &command).map(drop)
        };
        let address = |name: &str, network: &str| self.scene.address(name, network, false);
        let (outside, behind_mac) = (
            self.far.port(Version::V4, UDP),
            self.mac_far.port(Version::V4, UDP),
        );
        for name in ["bridged", "behind", "spread", "open", "sidecar"] {
            send(name, &outside)?;
        }
        send("mac", &behind_mac)?;
        send("open", &format!("{}:{UDP}", address("bridged", FRONT)?))?;
        send("open", &format!("{}:{UDP}", address("behind", BACK)?))?;
        // By the host's address there: a socket of the other container's takes it.
        let gateway = "{{(index .IPAM.Config 0).Gateway}}";
        let gateway = self
            .scene
            .engine
            .docker(["network", "inspect", "--format", gateway, FRONT])?;
        send("sidecar", &format!("{gateway}:{OPEN_UDP}"))?;
        // What the host itself sends is nobody's.
        let own = ["udp-send", outside.as_str(), &count, &size];
        self.scene.host().run(&traffic()?, own)?;
        let near = Version::V4.port(&self.far.near(Version::V4), OPEN_UDP);
        self.far.send(&near, DATAGRAMS, SIZE)?;
        let mac = format!("{}:{UDP}", address("mac", BRIDGE)?);
        self.mac_far.send(&mac, DATAGRAMS, SIZE)
    }
}

/// What the pattern is for the container on the host's network: from outside and the sidecar, to outside and two others.
fn moved_by_open() -> Ways<Tally> {
    Ways {
        receive: datagrams(Version::V4, 2 * DATAGRAMS, SIZE),
        transmit: datagrams(Version::V4, 3 * DATAGRAMS, SIZE),
    }
}

/// Over all series.
fn all_series(samples: &Samples) -> Result<Ways<Tally>> {
    series(samples)
        .iter()
        .map(|[name, network, interface]| {
            let labels = [
                ("name", name.as_str()),
                ("network", network),
                ("interface", interface),
            ];
            Ways::shown(samples, &labels)
        })
        .sum::<Result<_>>()
}

/// Packets and bytes over all networks.
fn all_networks(samples: &Samples) -> Ways<Tally> {
    let of = |direction: &str, unit: &str| {
        samples.sum(&format!("dtm_network_containers_{direction}_{unit}_total"), &[])
    };
    let way = |direction: &str| Tally {
        packets: of(direction, "packets"),
        bytes: of(direction, "bytes"),
        wire_bytes: 0,
    };
    Ways {
        receive: way("receive"),
        transmit: way("transmit"),
    }
}

fn without_wire(ways: Ways<Tally>) -> Ways<Tally> {
    let of = |tally: Tally| Tally {
        wire_bytes: 0,
        ..tally
    };
    Ways {
        receive: of(ways.receive),
        transmit: of(ways.transmit),
    }
}

/// What everybody says, at a moment at which nothing moves.
struct Moment {
    readings: Vec<Reading>,
    samples: Samples,
}

impl Moment {
    fn of(stage: &Stage) -> Result<Self> {
        let places: Vec<_> = stage.places.iter().collect();
        eventually(PATIENCE, "everything rests", || {
            let readings = read(&stage.scene, &places)?;
            let samples = stage.scene.samples()?;
            let rests = read(&stage.scene, &places)? == readings;
            Ok(rests.then_some(Self { readings, samples }))
        })
    }

    fn open(&self) -> Result<Ways<Tally>> {
        Ways::shown(&self.samples, &labels("open"))
    }
}

fn sums_agree_across_modes(kind: EngineKind) -> Result<()> {
    let stage = Stage::new(kind)?;
    let before = Moment::of(&stage)?;
    stage.pattern()?;
    let after = Moment::of(&stage)?;
    let grown: Vec<_> = after
        .readings
        .iter()
        .zip(&before.readings)
        .map(|(after, before)| after.since(*before))
        .collect();

    // Each on its own: the interfaces by the kernel's count, the other by what was sent to and from it.
    let places: Vec<_> = stage.places.iter().collect();
    all_exact(&places, &grown)?;
    agree(
        "on the host's network",
        after.open()? - before.open()?,
        moved_by_open(),
    )?;
    let pattern = [(1, 3), (1, 1), (0, 0), (0, 1), (1, 1)];
    for ((place, reading), (received, sent)) in places.iter().zip(&grown).zip(pattern) {
        let Ways { receive, transmit } = reading.kernel;
        // Beside the datagrams there are few packets: nobody has another's, so that two wrongs made a right.
        let is_right = |moved: u64, times: u64| (times * DATAGRAMS..(times + 1) * DATAGRAMS).contains(&moved);
        ensure!(
            is_right(receive.packets, received) && is_right(transmit.packets, sent),
            "{:?}: {reading:?}",
            place.names()
        );
    }

    // And together: all series, all networks, and the kernel. Nothing here is cut into segments.
    let tally = |frames: Frames| Tally {
        packets: frames.packets,
        bytes: frames.bytes,
        wire_bytes: frames.bytes,
    };
    let interfaces = grown.iter().map(|reading| Ways {
        receive: tally(reading.kernel.receive),
        transmit: tally(reading.kernel.transmit),
    });
    let truth = interfaces.sum::<Ways<Tally>>() + moved_by_open();
    let shown = all_series(&after.samples)? - all_series(&before.samples)?;
    agree("the sum of all series", shown, truth)?;
    let networks = all_networks(&after.samples) - all_networks(&before.samples);
    agree("the sum of all networks", networks, without_wire(shown))?;
    let whole = without_wire(all_series(&after.samples)?);
    agree(
        "the sums since the beginning",
        all_networks(&after.samples),
        whole,
    )?;
    // The same once more, by where it went.
    sums_agree(&stage.scene)
}

#[test]
fn sums_agree_across_modes_on_the_old_engine() -> Result<()> {
    sums_agree_across_modes(EngineKind::Old)
}

#[test]
fn sums_agree_across_modes_on_the_current_engine() -> Result<()> {
    sums_agree_across_modes(EngineKind::Current)
}
