//! Overlay networks: the host ends of the containers' interfaces are in a namespace of the network's own, out of everybody's
//! sight, and their ways out of the host are on `docker_gwbridge`.

mod comebacks;
pub(crate) mod stage;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{TCP, UDP, Version, traffic},
    scene::IMAGE,
    tally::{Reading, Ways},
};
use xtask::host::EngineKind;

use crate::{
    facts::{Fact, INFO, SENT_BYTES, agree, hold, holds, only_these_series},
    fares::{BARRED, CLOSED, asks, loses, serves},
    places::{Place, all_exact, bytes_exact, during, read, sent_exact},
};
use stage::{CABLE, Node, OVERLAY, Stage, places, task_of};

/// Holds a place to having moved so many packets, received and sent, and a few that ask for addresses and announce them.
fn has_moved(place: &Place, reading: &Reading, received: u64, sent: u64) -> Result<()> {
    let Ways { receive, transmit } = reading.kernel;
    for (moved, least) in [(receive.packets, received), (transmit.packets, sent)] {
        let is_right = moved >= least && moved <= least + 20;
        ensure!(is_right, "{:?} moved {reading:?}", place.names());
    }
    Ok(())
}

/// Both ways between the nodes, packet for packet on both; nothing of it on the containers' other interfaces.
fn between_nodes_is_exact(stage: &Stage) -> Result<()> {
    let Stage { manager, worker } = stage;
    let (here, there) = (&manager.overlay[0], &worker.overlay[0]);
    let (back, forth) = (manager.port(here, UDP)?, worker.port(there, UDP)?);
    let cable = |node: &Node| -> Result<u64> {
        let links = node.scene.host().links()?;
        let cable = links.iter().find(|link| link.name == CABLE).context("a cable")?;
        Ok(node.scene.host().link_statistics(cable.ifindex)?.tx_packets)
    };
    let before = cable(manager)?;
    let (at_manager, mut at_worker) = (manager.places(), Vec::new());
    let readings = during(&manager.scene, &at_manager, || {
        at_worker = during(&worker.scene, &worker.places(), || {
            manager.send(here, &forth, 200, 700)?;
            worker.send(there, &back, 120, 800)?;
            let (address, _port) = forth.rsplit_once(':').context("a port")?;
            let ping = ["ping", "-c", "3", "-i", "0.1", address];
            manager.run(&here.container, "busybox", &ping).map(drop)
        })?;
        Ok(())
    })?;
    let on_the_cable = cable(manager)? - before;
    ensure!(on_the_cable >= 203, "{on_the_cable} packets went over the cable");
    all_exact(&at_manager, &readings)?;
    all_exact(&worker.places(), &at_worker)?;
    has_moved(here, &readings[0], 123, 203)?;
    has_moved(there, &at_worker[0], 203, 123)?;
    for (node, readings) in [(manager, &readings), (worker, &at_worker)] {
        for (place, reading) in node.places().into_iter().zip(readings).skip(1) {
            has_moved(place, reading, 0, 0)?;
        }
    }
    Ok(())
}

/// Two containers of one node.
fn within_a_node_is_exact(stage: &Stage) -> Result<()> {
    for node in stage.nodes() {
        let [first, second] = &node.overlay;
        let readings = during(&node.scene, &node.places(), || {
            node.send(first, &node.port(second, UDP)?, 150, 600)?;
            node.send(second, &node.port(first, UDP)?, 50, 500)
        })?;
        all_exact(&node.places(), &readings)?;
        has_moved(first, &readings[0], 50, 150)?;
        has_moved(second, &readings[1], 150, 50)?;
    }
    Ok(())
}

/// Segments that the kernel never sees: their bytes.
fn connections_are_exact(stage: &Stage) -> Result<()> {
    let Stage { manager, worker } = stage;
    let to = worker.port(&worker.overlay[1], TCP)?;
    let mut at_worker = Vec::new();
    let at_manager = during(&manager.scene, &manager.places(), || {
        at_worker = during(&worker.scene, &worker.places(), || {
            let send = ["tcp-send", &to, "3000000"];
            let from = &manager.overlay[0].container;
            manager.run(from, &traffic()?, &send).map(drop)
        })?;
        Ok(())
    })?;
    bytes_exact(&manager.places(), &at_manager)?;
    bytes_exact(&worker.places(), &at_worker)?;
    let received = at_worker[1].kernel.receive.bytes;
    ensure!(received > 3_000_000, "only {received} bytes arrived");
    Ok(())
}

/// From one node to the other.
fn connections_and_drops_are_the_kernels(stage: &Stage) -> Result<()> {
    let Stage { manager, worker } = stage;
    let (from, to) = (&manager.overlay[0], &worker.overlay[1]);
    asks(&manager.scene, &from.container, (1, 3), || {
        serves(&worker.scene, &to.container, 1, || {
            let send = ["tcp-send", &worker.port(to, TCP)?, "50000"];
            manager.run(&from.container, &traffic()?, &send)?;
            let refused = ["tcp-refused", &worker.port(to, CLOSED)?, "3"];
            manager.run(&from.container, &traffic()?, &refused).map(drop)
        })
    })?;
    loses(&worker.scene, &to.container, || {
        manager.send(from, &worker.port(to, BARRED)?, 60, 400)
    })
}

/// Over the other interface, and not over the overlay's.
fn out_of_the_host_is_exact(stage: &Stage) -> Result<()> {
    for node in stage.nodes() {
        let far = node.far.port(Version::V4, UDP);
        let readings = during(&node.scene, &node.places(), || {
            node.send(&node.overlay[0], &far, 130, 900)
        })?;
        all_exact(&node.places(), &readings)?;
        has_moved(&node.overlay[0], &readings[0], 0, 0)?;
        has_moved(&node.gateway[0], &readings[2], 0, 130)?;
    }
    Ok(())
}

/// What they send over the overlay, from the first packet on; what belongs to Swarm itself is nobody's series.
///
/// The other facts have the rest, from when it is shown on: the hidden namespace's bridge speaks to its ports while dtm
/// attaches to them, and on `docker_gwbridge` the engine announces new containers.
fn everything_sent_since_birth_is_exact(stage: &Stage) -> Result<()> {
    for node in stage.nodes() {
        let overlay: Vec<_> = node.overlay.iter().collect();
        sent_exact(&overlay, &read(&node.scene, &overlay)?)?;
        let places = node.places();
        let names: Vec<_> = places.iter().map(|place| place.names()).collect();
        only_these_series(&node.scene, &names)?;
        let samples = node.scene.samples()?;
        let of = [("network", OVERLAY), ("driver", "overlay")];
        let sum = samples.get("dtm_network_containers_transmit_bytes_total", &of)?;
        agree("the network's sum", sum, samples.sum(SENT_BYTES, &of[..1]))?;
    }
    Ok(())
}

/// A service without a virtual address, a task on each node.
fn tasks_of_a_service_are_exact(stage: &Stage) -> Result<()> {
    let receive = format!("traffic udp-receive {UDP} & exec traffic tcp-receive {TCP}");
    let options = [
        "--detach",
        "--no-resolve-image",
        "--name=web",
        "--mode=global",
        "--endpoint-mode=dnsrr",
        "--stop-signal=KILL",
        "--cap-add=NET_ADMIN",
        "--network",
        OVERLAY,
    ];
    let create = ["service", "create"].iter().chain(&options);
    let command = [IMAGE, "sh", "-c", &receive];
    stage.manager.scene.engine.docker(create.chain(&command))?;
    let mut tasks = Vec::new();
    for node in stage.nodes() {
        let task = task_of(&node.scene, "web")?;
        let (overlay, gateway) = places(&node.scene, &task)?;
        let info = [("name", task.as_str()), ("swarm_service", "web")];
        let samples = node.scene.samples()?;
        agree("what is known of a task", samples.all(INFO, &info).count(), 1)?;
        tasks.push((overlay, gateway));
    }
    let Stage { manager, worker } = stage;
    let to = worker.port(&tasks[1].0, UDP)?;
    let (here, there) = ([&tasks[0].0, &tasks[0].1], [&tasks[1].0, &tasks[1].1]);
    let mut at_worker = Vec::new();
    let at_manager = during(&manager.scene, &here, || {
        at_worker = during(&worker.scene, &there, || manager.send(here[0], &to, 140, 650))?;
        Ok(())
    })?;
    all_exact(&here, &at_manager)?;
    all_exact(&there, &at_worker)?;
    has_moved(here[0], &at_manager[0], 0, 140)?;
    has_moved(there[0], &at_worker[0], 140, 0)?;
    for (scene, places) in [(&manager.scene, here), (&worker.scene, there)] {
        sent_exact(&places[..1], &read(scene, &places[..1])?)?;
    }
    Ok(())
}

const FACTS: &[Fact<Stage>] = &[
    (
        "everything sent since birth is exact",
        everything_sent_since_birth_is_exact,
    ),
    ("between nodes is exact", between_nodes_is_exact),
    ("within a node is exact", within_a_node_is_exact),
    ("connections are exact", connections_are_exact),
    (
        "connections and drops are the kernel's",
        connections_and_drops_are_the_kernels,
    ),
    ("out of the host is exact", out_of_the_host_is_exact),
    (
        "everything sent since birth is still exact",
        everything_sent_since_birth_is_exact,
    ),
];

fn overlay_networks_are_exact_on_both_nodes(kind: EngineKind) -> Result<()> {
    let mut stage = Stage::new(kind)?;
    hold(&stage, FACTS)?;
    holds("dtm comes back to it", || {
        comebacks::dtm_comes_back(&mut stage.worker, &stage.manager)
    })?;
    holds("tasks of a service are exact", || {
        tasks_of_a_service_are_exact(&stage)
    })?;
    holds("the engine comes back to it", || {
        comebacks::the_engine_comes_back(&mut stage.worker, &stage.manager)
    })
}

#[test]
fn overlay_networks_are_exact_on_both_nodes_of_the_old_engine() -> Result<()> {
    overlay_networks_are_exact_on_both_nodes(EngineKind::Old)
}

#[test]
fn overlay_networks_are_exact_on_both_nodes_of_the_current_engine() -> Result<()> {
    overlay_networks_are_exact_on_both_nodes(EngineKind::Current)
}
