//! Bridge networks of every kind, and a container that is on all of them.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{Far, TCP, UDP, Version, traffic, wait_listening},
    scene::Scene,
};
use xtask::host::{EngineKind, EngineOptions};

use crate::{
    facts::{Fact, agree, hold, only_these_series},
    places::{Place, all_exact, bytes_exact, during, inside, read},
};

/// The container that is on every network.
const HUB: &str = "hub";
/// The default network, and how the hub is called there.
const DEFAULT: &str = "bridge";
const ALIAS: &str = "friend";
/// The port of the host that leads to the receiver of connections on [`PUBLISHED`].
const PORT: &str = "8081";
/// The network of which a container publishes a port.
const PUBLISHED: &str = "plain";
/// The network whose containers cannot reach each other.
const APART: &str = "apart";
/// The network of large packets, and that of small ones.
const JUMBO: &str = "jumbo";
/// See [`JUMBO`].
const NARROW: &str = "narrow";
/// The networks that somebody outside reaches, with and without translation.
const ROUTED: &str = "routed";
/// See [`ROUTED`].
const TRANSLATED: &str = "translated";
/// The network whose bridge has a name of the user's.
const NAMED: &str = "named";

/// A network that is made for these tests, with a container `on-<name>` besides the hub.
struct Kind {
    name: &'static str,
    options: &'static [&'static str],
    /// The version in which its containers talk.
    version: Version,
    /// Only a current engine makes it.
    is_new: bool,
}

const fn kind(name: &'static str, options: &'static [&'static str]) -> Kind {
    Kind {
        name,
        options,
        version: Version::V4,
        is_new: false,
    }
}

const KINDS: &[Kind] = &[
    kind(PUBLISHED, &[]),
    kind("inward", &["--internal"]),
    kind(APART, &["--opt", "com.docker.network.bridge.enable_icc=false"]),
    kind(NAMED, &["--opt", "com.docker.network.bridge.name=own-name0"]),
    kind(JUMBO, &["--opt", "com.docker.network.driver.mtu=9000"]),
    kind(NARROW, &["--opt", "com.docker.network.driver.mtu=1280"]),
    Kind {
        version: Version::V6,
        ..kind("dual", &["--ipv6", "--subnet", "fd00:d8::/64"])
    },
    Kind {
        version: Version::V6,
        is_new: true,
        ..kind("sixth", &["--ipv4=false", "--ipv6", "--subnet", "fd00:d9::/64"])
    },
    Kind {
        is_new: true,
        ..kind(
            TRANSLATED,
            &["--opt", "com.docker.network.bridge.gateway_mode_ipv4=nat"],
        )
    },
    Kind {
        is_new: true,
        ..kind(
            ROUTED,
            &["--opt", "com.docker.network.bridge.gateway_mode_ipv4=routed"],
        )
    },
];

/// A network and who is on it.
#[derive(Debug)]
struct Row {
    network: &'static str,
    version: Version,
    leaf: Place,
    hub: Place,
}

#[derive(Debug)]
struct Stage {
    far: Far,
    rows: Vec<Row>,
    scene: Scene,
}

impl Stage {
    /// An engine without a proxy for published ports, its networks and containers; all born under dtm's eyes.
    fn new(engine: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions {
            arguments: vec!["--userland-proxy=false".to_owned()],
            ..EngineOptions::new(engine)
        })?;
        // Neither bridges nor the engine say anything while dtm attaches: what is held to be exact from the beginning is
        // what containers send, and what they are answered.
        scene.silence_bridges()?;
        scene.start_dtm(&[])?;
        let far = Far::new(scene.host(), 1)?;
        let receive = format!("traffic udp-receive {UDP} & exec traffic tcp-receive {TCP}");
        let receive = ["sh", "-c", receive.as_str()];
        scene.run(HUB, DEFAULT, &receive)?;
        let link = format!("{HUB}:{ALIAS}");
        scene.run_with("on-bridge", &["--link", &link], &receive)?;
        let mut networks = vec![(DEFAULT, Version::V4)];
        let kinds = KINDS
            .iter()
            .filter(|kind| engine == EngineKind::Current || !kind.is_new);
        for &Kind {
            name,
            options,
            version,
            ..
        } in kinds
        {
            let unannounced = "--opt=com.docker.network.advertise_addr_nmsgs=0";
            let create = ["network", "create", unannounced];
            scene.engine.docker(create.iter().chain(options).chain([&name]))?;
            let publish = format!("{PORT}:{TCP}");
            let publish: &[&str] = if name == PUBLISHED {
                &["--publish", &publish]
            } else {
                &[]
            };
            let options = [&["--network", name], publish].concat();
            scene.run_with(&format!("on-{name}"), &options, &receive)?;
            scene.engine.docker(["network", "connect", name, HUB])?;
            networks.push((name, version));
        }
        let mut rows = Vec::new();
        for (network, version) in networks {
            let row = Row {
                network,
                version,
                leaf: Place::on_bridge(&scene, &format!("on-{network}"), network)?,
                hub: Place::on_bridge(&scene, HUB, network)?,
            };
            for place in [&row.leaf, &row.hub] {
                place.wait_shown(&scene)?;
            }
            rows.push(row);
        }
        for container in rows.iter().map(|row| &row.leaf.container) {
            let network = inside(&scene, container)?;
            wait_listening(&network, UDP)?;
            wait_listening(&network, TCP)?;
        }
        Ok(Self { far, rows, scene })
    }

    fn row(&self, network: &str) -> Result<&Row> {
        let row = self.rows.iter().find(|row| row.network == network);
        row.with_context(|| format!("no network {network}"))
    }

    /// Runs a program of the machine's in a container's network.
    fn run(&self, container: &str, program: &str, arguments: &[&str]) -> Result<String> {
        inside(&self.scene, container)?.run(program, arguments)
    }

    /// Has a container send datagrams.
    fn send(&self, container: &str, to: &str, datagrams: u64, size: u64) -> Result<()> {
        let (datagrams, size) = (datagrams.to_string(), size.to_string());
        self.run(container, &traffic()?, &["udp-send", to, &datagrams, &size])
            .map(drop)
    }

    fn address(&self, row: &Row, container: &str) -> Result<String> {
        let is_ipv6 = row.version == Version::V6;
        let address = self.scene.address(container, row.network, is_ipv6)?;
        Ok(address.trim_matches(['[', ']']).to_owned())
    }

    fn gateway(&self, network: &str) -> Result<String> {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        self.scene
            .engine
            .docker(["network", "inspect", "--format", format, network])
    }
}

/// Datagrams and pings both ways, on each network on which containers reach each other: packet for packet.
fn every_network_is_exact(stage: &Stage) -> Result<()> {
    for row in stage.rows.iter().filter(|row| row.network != APART) {
        let places = [&row.leaf, &row.hub];
        let (leaf, hub) = (&row.leaf.container, &row.hub.container);
        let (to_leaf, to_hub) = (stage.address(row, leaf)?, stage.address(row, hub)?);
        let readings = during(&stage.scene, &places, || {
            stage.send(leaf, &row.version.port(&to_hub, UDP), 100, 700)?;
            stage.send(hub, &row.version.port(&to_leaf, UDP), 60, 900)?;
            stage
                .run(leaf, "busybox", &["ping", "-c", "2", "-i", "0.1", &to_hub])
                .map(drop)
        });
        let readings = readings.with_context(|| format!("on {}", row.network))?;
        all_exact(&places, &readings)?;
        for (reading, received, sent) in [(readings[0], 62, 102), (readings[1], 102, 62)] {
            let kernel = reading.kernel;
            ensure!(
                kernel.receive.packets >= received && kernel.transmit.packets >= sent,
                "not everything went over {}: {kernel:?}",
                row.network
            );
        }
    }
    Ok(())
}

/// Segments that the kernel never sees: their bytes.
fn connections_are_exact(stage: &Stage) -> Result<()> {
    for row in stage.rows.iter().filter(|row| row.network != APART) {
        let places = [&row.leaf, &row.hub];
        let to = row.version.port(&stage.address(row, HUB)?, TCP);
        let readings = during(&stage.scene, &places, || {
            let send = ["tcp-send", &to, "1000000"];
            stage.run(&row.leaf.container, &traffic()?, &send).map(drop)
        })?;
        bytes_exact(&places, &readings)?;
        ensure!(
            readings[0].kernel.transmit.bytes > 1_000_000,
            "not everything went over {}: {readings:?}",
            row.network
        );
    }
    Ok(())
}

/// The older way to tell containers of each other.
fn a_link_leads_to_the_hub(stage: &Stage) -> Result<()> {
    let Row { leaf, hub, .. } = stage.row(DEFAULT)?;
    let readings = during(&stage.scene, &[leaf, hub], || {
        let ping = ["ping", "-c", "3", "-i", "0.1", ALIAS];
        stage.scene.exec(&leaf.container, &ping).map(drop)
    })?;
    all_exact(&[leaf, hub], &readings)?;
    agree("pings and answers", readings[1].kernel.receive.packets >= 3, true)
}

/// What a container sends to another that it may not reach is sent, and not received.
fn apart_is_sent_and_not_received(stage: &Stage) -> Result<()> {
    let row @ Row { leaf, hub, .. } = stage.row(APART)?;
    let to = row.version.port(&stage.address(row, HUB)?, UDP);
    let gateway = stage.gateway(APART)?;
    let readings = during(&stage.scene, &[leaf, hub], || {
        stage.send(&leaf.container, &to, 100, 700)?;
        // Whom it may reach is the host.
        let ping = ["ping", "-c", "2", "-i", "0.1", gateway.as_str()];
        stage.run(&leaf.container, "busybox", &ping).map(drop)
    })?;
    all_exact(&[leaf, hub], &readings)?;
    let datagrams = 100 * (700 + 42);
    let (sent, heard) = (
        readings[0].kernel.transmit.bytes,
        readings[1].kernel.receive.bytes,
    );
    ensure!(
        sent >= datagrams && heard < datagrams,
        "{sent} bytes were sent, {heard} received"
    );
    Ok(())
}

/// One packet where the network takes it, several where it does not.
fn packets_are_those_of_the_mtu(stage: &Stage) -> Result<()> {
    // Behind the IPv4 header of each, 1280 less that, in whole eights: 1256. Of 4008 bytes with UDP's header that is four.
    for (network, packets) in [(JUMBO, 1), (NARROW, 4)] {
        let row = stage.row(network)?;
        let places = [&row.leaf, &row.hub];
        let to = row.version.port(&stage.address(row, HUB)?, UDP);
        let readings = during(&stage.scene, &places, || {
            stage.send(&row.leaf.container, &to, 50, 4000)
        })?;
        all_exact(&places, &readings)?;
        let sent = readings[0].ours.transmit;
        let asked = sent.packets - 50 * packets;
        ensure!(asked <= 2, "{asked} packets besides those of {network}");
        let headers = (14 + 20) * packets + 8;
        agree(network, sent.bytes, 50 * (4000 + headers) + asked * 42)?;
    }
    Ok(())
}

/// From outside and from the host itself, through the host's own translation, without a proxy.
fn a_published_port_is_the_containers(stage: &Stage) -> Result<()> {
    let Row { leaf, hub, .. } = stage.row(PUBLISHED)?;
    let near = stage.far.near(Version::V4);
    let readings = during(&stage.scene, &[leaf, hub], || {
        stage
            .far
            .traffic(&["tcp-send", &format!("{near}:{PORT}"), "700000"])?;
        let local = ["tcp-send", &format!("127.0.0.1:{PORT}"), "300000"];
        stage.scene.host().run(&traffic()?, local).map(drop)
    })?;
    bytes_exact(&[leaf, hub], &readings)?;
    let bytes = readings[0].kernel.receive.bytes;
    ensure!(bytes > 1_000_000, "only {bytes} bytes came to the container");
    Ok(())
}

/// Out of the host, and in where a network has no translation.
fn out_of_the_host_is_exact(stage: &Stage) -> Result<()> {
    let far = stage.far.port(Version::V4, UDP);
    let gateways = [PUBLISHED, TRANSLATED, ROUTED];
    for row in stage.rows.iter().filter(|row| gateways.contains(&row.network)) {
        let leaf = &row.leaf;
        let address = stage.address(row, &leaf.container)?;
        let readings = during(&stage.scene, &[leaf], || {
            stage.send(&leaf.container, &far, 100, 500)?;
            if row.network == ROUTED {
                let ping = ["ping", "-c", "3", "-i", "0.1", &address];
                stage.far.network().run("busybox", ping)?;
            }
            Ok(())
        })?;
        all_exact(&[leaf], &readings)?;
        let kernel = readings[0].kernel;
        ensure!(
            kernel.transmit.packets >= 100,
            "not everything left {}: {kernel:?}",
            row.network
        );
    }
    Ok(())
}

/// From their first packet on, and one series for each network and interface.
fn everything_since_birth_is_exact(stage: &Stage) -> Result<()> {
    let places: Vec<_> = stage.rows.iter().flat_map(|row| [&row.leaf, &row.hub]).collect();
    // On the default network nobody can keep the engine from announcing new containers.
    let unannounced: Vec<_> = places
        .iter()
        .copied()
        .filter(|place| place.network != DEFAULT)
        .collect();
    bytes_exact(&unannounced, &read(&stage.scene, &unannounced)?)?;
    let names: Vec<_> = places.iter().map(|place| place.names()).collect();
    only_these_series(&stage.scene, &names)
}

const FACTS: &[Fact<Stage>] = &[
    ("every network is exact", every_network_is_exact),
    ("connections are exact", connections_are_exact),
    ("a link leads to the hub", a_link_leads_to_the_hub),
    ("apart is sent and not received", apart_is_sent_and_not_received),
    ("packets are those of the MTU", packets_are_those_of_the_mtu),
    (
        "a published port is the container's",
        a_published_port_is_the_containers,
    ),
    ("out of the host is exact", out_of_the_host_is_exact),
    ("everything since birth is exact", everything_since_birth_is_exact),
];

#[test]
fn bridge_networks_of_every_kind_are_exact_on_the_old_engine() -> Result<()> {
    hold(&Stage::new(EngineKind::Old)?, FACTS)
}

#[test]
fn bridge_networks_of_every_kind_are_exact_on_the_current_engine() -> Result<()> {
    hold(&Stage::new(EngineKind::Current)?, FACTS)
}
