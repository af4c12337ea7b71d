//! A daemon's state for tests: every kind of series, and other people's strings at their worst.

use std::{collections::BTreeMap, ffi::OsString, sync::Arc, time::Duration};

use dtm_common::{errors::ERROR_NAMES, tcp::TcpCounters, traffic::Tally, views::Volume};

use crate::{
    config::Config,
    docker::{Container, ContainerId, ContainerState},
    net::{DeviceDrops, ListenCounts},
    tracker::{
        ContainerSnapshot, DropSnapshot, FlowSnapshot, Infrastructure, InterfaceSnapshot, LifeSnapshot,
        NetworkSnapshot, Snapshot, Status, TcpSnapshot, Traffic,
    },
    uplinks::UplinkSnapshot,
};

/// A name no engine takes, and no format may break on.
pub(crate) const HOSTILE: &str = "a\"b\\c\nd\re\u{1F433}\\\"# EOF\n# TYPE x counter\n{}=,' \u{2028}\0";

/// The configuration `flags` give.
pub(crate) fn config(flags: &[&str]) -> Arc<Config> {
    let arguments = std::iter::once("dtm")
        .chain(flags.iter().copied())
        .map(OsString::from);
    Arc::new(Config::from_arguments(arguments.collect(), None).unwrap())
}

/// A tally in which no two numbers are equal.
pub(crate) fn traffic(start: u64) -> Traffic {
    let tally = |start| Tally {
        bytes: start,
        packets: start + 1,
        wire_bytes: start + 2,
    };
    let mut traffic = Traffic {
        receive: tally(start),
        transmit: tally(start + 3),
        dropped: Some(DeviceDrops {
            receive: start + 6,
            transmit: start + 7,
        }),
        ..Traffic::default()
    };
    for (number, word) in (start * 1_000..).zip(traffic.views.words_mut()) {
        *word = number;
    }
    traffic
}

/// Connections of which no two numbers are equal.
fn tcp(start: u64) -> TcpSnapshot {
    let mut counters = TcpCounters::default();
    for (number, word) in (start..).zip(counters.words_mut()) {
        *word = number;
    }
    TcpSnapshot {
        counters,
        connections: Some(start + 1),
        listen: Some(ListenCounts {
            overflows: start + 2,
            drops: start + 3,
        }),
    }
}

/// A container that runs on one network.
pub(crate) fn container(number: u64, name: &str) -> ContainerSnapshot {
    let id = ContainerId::parse(&format!("{number:012x}{:052x}", 0)).unwrap();
    ContainerSnapshot {
        container: Arc::new(Container {
            id,
            name: name.into(),
            image: "busybox:1".into(),
            labels: BTreeMap::new(),
            network_mode: "front".into(),
            state: ContainerState::Running,
            started_at: Some(1_760_000_000.25),
            endpoints: Vec::new(),
        }),
        living: true,
        network_container_id: None,
        interfaces: vec![InterfaceSnapshot {
            network: "front".into(),
            interface: "eth0".into(),
            traffic: traffic(number * 100),
        }],
        views: Some(Box::new(traffic(number * 100).views)),
        tcp: Some(Box::new(tcp(number * 100))),
        drops: Vec::new(),
        uncovered: None,
    }
}

/// One of everything.
pub(crate) fn snapshot() -> Snapshot {
    let labels = [
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", "db"),
        ("com.docker.swarm.service.name", "shop_db"),
        ("team", "storage"),
    ];
    let mut database = container(1, "db");
    database.drops = vec![DropSnapshot {
        direction: "receive",
        reason: "netfilter_drop".into(),
        packets: 3,
        bytes: 294,
    }];
    edit(&mut database, |container| {
        container.labels = labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    });
    let mut gone = container(2, "gone");
    gone.living = false;
    let mut sidecar = container(3, "sidecar");
    sidecar.interfaces.clear();
    sidecar.views = None;
    sidecar.tcp = None;
    sidecar.network_container_id = Some(database.container.id.full().into());
    sidecar.uncovered = Some("shared_network");
    edit(&mut sidecar, |container| container.started_at = None);

    let network = |name: &str, driver: &str, start, bridge| NetworkSnapshot {
        name: name.into(),
        driver: driver.into(),
        containers: traffic(start),
        bridge,
        infrastructure: BTreeMap::new(),
    };
    let mut bridge = network("bridge", "bridge", 2500, Some(traffic(2600)));
    bridge.infrastructure = [(Infrastructure::Build, traffic(2700))].into();
    Snapshot {
        read_at: Duration::from_secs(1_000),
        containers: vec![database, gone, sidecar],
        networks: vec![
            bridge,
            network("front", "bridge", 1000, Some(traffic(1500))),
            network("lan", "macvlan", 2000, None),
            network("twice", "bridge", 3000, None),
            network("twice", "bridge", 3000, Some(traffic(3500))),
        ],
        unattributed: traffic(10),
        unattributed_drops: [("netfilter_drop".into(), 0), ("no_socket".into(), 2)].into(),
        dropped: [("netfilter_drop".into(), 3), ("no_socket".into(), 2)].into(),
        flows: vec![
            flow("@internet", "db", 11),
            flow("@other", "@other", 0),
            flow("db", "@host", 22),
        ],
        lives: [(3, life(40)), (4, life(50))].into(),
        uplinks: vec![uplink("eth0", Some("native"), 100), uplink("wan", None, 0)],
        status: status(),
    }
}

/// An interface at which something has arrived, or nothing.
fn uplink(interface: &str, mode: Option<&'static str>, start: u64) -> UplinkSnapshot {
    let volume = |number| Volume {
        bytes: (start + number) * 64,
        packets: start + number,
    };
    UplinkSnapshot {
        interface: interface.into(),
        protocols: [volume(0), volume(start), volume(start * 2), volume(start * 3)],
        syns: start / 2,
        mode,
    }
}

/// What one life of an interface has counted.
fn life(start: u64) -> LifeSnapshot {
    let Traffic {
        receive, transmit, ..
    } = traffic(start);
    LifeSnapshot { receive, transmit }
}

/// A pair that moved something.
fn flow(source: &str, destination: &str, bytes: u64) -> FlowSnapshot {
    FlowSnapshot {
        source: source.into(),
        destination: destination.into(),
        volume: Volume {
            bytes,
            packets: bytes / 11,
        },
    }
}

fn status() -> Status {
    Status {
        docker_up: true,
        docker_version: "29.0.0".into(),
        containers: ContainerState::ALL.map(|state| (state, 0)).into(),
        interfaces: [
            (("named", "tcx"), 1),
            (("pending", "tcx"), 0),
            (("bridge", "clsact"), 1),
        ]
        .into(),
        preceded: [("clsact", 1), ("tcx", 0)].into(),
        features: [("btf", true), ("drop_reasons", false)].into(),
        programs: [("dtm_receive", 2), ("dtm_drop", 1)].into(),
        maps: [("COUNTERS", (2, 8192))].into(),
        map_update_errors: [("COUNTERS", 0)].into(),
        events_lost: [("netlink", 0)].into(),
        attach_errors: [("gone", 1)].into(),
        reattached: 4,
        takeover: [("attached", 3), ("detached", 1), ("gone", 2)].into(),
        unwatched: Duration::from_millis(1500),
        journal_bytes: 65_536,
        flow_pairs: Some((2, 2000)),
        program_errors: ERROR_NAMES.map(|name| (name, 0)).into(),
        read_duration: Duration::from_micros(250),
        read_success: true,
    }
}

/// [`snapshot`] with [`HOSTILE`] wherever somebody else chooses the text, and 10 KB of it in an image.
pub(crate) fn hostile() -> Snapshot {
    let mut snapshot = snapshot();
    let mut hostile = container(4, HOSTILE);
    hostile.interfaces[0].network = HOSTILE.into();
    hostile.interfaces[0].interface = HOSTILE.into();
    edit(&mut hostile, |container| {
        container.image = "\"\\\n\u{1F433}".repeat(1500).into();
        container.network_mode = HOSTILE.into();
        let labels = [
            "team",
            "com.docker.compose.project",
            "com.docker.compose.service",
            "com.docker.swarm.service.name",
        ];
        container.labels = labels.map(|label| (label.to_owned(), HOSTILE.to_owned())).into();
    });
    snapshot.containers.push(hostile);
    snapshot.flows.push(flow(HOSTILE, HOSTILE, 33));
    snapshot.networks[0].name = HOSTILE.into();
    snapshot.networks[0].driver = HOSTILE.into();
    snapshot
}

fn edit(snapshot: &mut ContainerSnapshot, change: impl FnOnce(&mut Container)) {
    change(Arc::get_mut(&mut snapshot.container).unwrap());
}
