//! Two hosts that form a Swarm, an overlay network over both, and containers on it.

use anyhow::{Context as _, Result};
use dtm_tests::{
    far::{Far, TCP, UDP, Version, traffic, wait_listening},
    networks::{make_overlay, make_swarm},
    scene::{PATIENCE, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::places::{Place, inside};

/// The overlay network.
pub(crate) const OVERLAY: &str = "ov";
/// The addresses by which the nodes know each other, and the name of the interfaces that have them.
const ADDRESSES: [&str; 2] = ["198.18.0.1", "198.18.0.2"];
pub(super) const CABLE: &str = "cable0";

/// Everything.
#[derive(Debug)]
pub(super) struct Stage {
    // In the order in which they have to end: the cable is the manager's, and so is the turn.
    pub(super) worker: Node,
    pub(super) manager: Node,
}

/// One of the two, and its containers.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) far: Far,
    /// On the overlay network.
    pub(super) overlay: [Place; 2],
    /// The same containers' ways out of the host.
    pub(super) gateway: [Place; 2],
    pub(super) scene: Scene,
}

impl Stage {
    /// Two engines of a kind, each with a dtm that is there before anything else is.
    pub(super) fn new(kind: EngineKind) -> Result<Self> {
        let options = EngineOptions::new(kind);
        let mut manager = Scene::new(options.clone())?;
        let mut worker = manager.beside(options)?;
        let [own, other] = ADDRESSES.map(|address| format!("{address}/24"));
        manager.host().join(worker.host(), CABLE, &own, &other)?;
        manager.start_dtm(&[])?;
        worker.start_dtm(&[])?;
        make_swarm(&manager, ADDRESSES[0])?;
        let token = manager
            .engine
            .docker(["swarm", "join-token", "--quiet", "worker"])?;
        let join = [
            "swarm",
            "join",
            "--token",
            &token,
            "--advertise-addr",
            ADDRESSES[1],
        ];
        worker.engine.docker(join.iter().chain(&[ADDRESSES[0]]))?;
        make_overlay(&manager, OVERLAY)?;
        Ok(Self {
            manager: Node::new(manager, ["first", "second"])?,
            worker: Node::new(worker, ["third", "fourth"])?,
        })
    }

    pub(super) fn nodes(&self) -> [&Node; 2] {
        [&self.manager, &self.worker]
    }
}

impl Node {
    fn new(scene: Scene, names: [&str; 2]) -> Result<Self> {
        let far = Far::new(scene.host(), 1)?;
        let mut places = Vec::new();
        for name in names {
            start(&scene, name, &[])?;
            places.push(self::places(&scene, name)?);
        }
        let places: [_; 2] = places.try_into().ok().context("two containers")?;
        let [(first, first_out), (second, second_out)] = places;
        let node = Self {
            far,
            overlay: [first, second],
            gateway: [first_out, second_out],
            scene,
        };
        // The bridges learn where both are: until then they send to all.
        let [one, other] = &node.overlay;
        let address = node.scene.address(&other.container, OVERLAY, false)?;
        node.run(&one.container, "busybox", &["ping", "-c", "1", &address])?;
        Ok(node)
    }

    /// All of its containers' places.
    pub(super) fn places(&self) -> Vec<&Place> {
        self.overlay.iter().chain(&self.gateway).collect()
    }

    /// Runs a program of the machine's in a container's network.
    pub(super) fn run(&self, container: &str, program: &str, arguments: &[&str]) -> Result<String> {
        inside(&self.scene, container)?.run(program, arguments)
    }

    /// Has a container send datagrams.
    pub(super) fn send(&self, from: &Place, to: &str, datagrams: u64, size: u64) -> Result<()> {
        let (datagrams, size) = (datagrams.to_string(), size.to_string());
        self.run(&from.container, &traffic()?, &["udp-send", to, &datagrams, &size])
            .map(drop)
    }

    /// A port of a container's on the overlay network.
    pub(super) fn port(&self, of: &Place, port: u16) -> Result<String> {
        let address = self.scene.address(&of.container, OVERLAY, false)?;
        Ok(Version::V4.port(&address, port))
    }
}

/// Starts a receiving container on the overlay network.
pub(crate) fn start(scene: &Scene, name: &str, options: &[&str]) -> Result<()> {
    let receive = format!("traffic udp-receive {UDP} & exec traffic tcp-receive {TCP}");
    let options = [&["--network", OVERLAY], options].concat();
    scene.run_with(name, &options, &["sh", "-c", &receive])
}

/// Where a running container is counted, once it listens and dtm shows it.
pub(crate) fn places(scene: &Scene, container: &str) -> Result<(Place, Place)> {
    let overlay = Place::on_overlay(scene, container, OVERLAY)?;
    let gateway = Place::on_gateway_bridge(scene, container, OVERLAY)?;
    let network = inside(scene, container)?;
    for port in [UDP, TCP] {
        wait_listening(&network, port)?;
    }
    for place in [&overlay, &gateway] {
        place.wait_shown(scene)?;
    }
    Ok((overlay, gateway))
}

/// The name of a node's running container of a service, once there is one.
pub(super) fn task_of(scene: &Scene, service: &str) -> Result<String> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    eventually(PATIENCE, &format!("a task of {service} runs"), || {
        let list = ["ps", "--filter", &filter, "--format", "{{.Names}}"];
        let names = scene.engine.docker(list)?;
        Ok(names.lines().next().map(str::to_owned))
    })
}
