//! Containers in another container's namespace, and those in none that leads anywhere.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{UDP, traffic, wait_listening},
    scene::{FRONT, PATIENCE, Scene},
};
use rustix::process::{Pid, Signal, kill_process};
use xtask::host::{EngineKind, EngineOptions, Network, eventually};

use crate::{
    comebacks::wait_docker,
    facts::{INFO, RECEIVED_BYTES, SENT_BYTES, UNCOVERED, agree, hold, holds, is_covered, only_these_series},
    fares::{BARRED, CLOSED, asks, loses},
    places::{Place, all_exact, during, inside, process, read},
};

const OWNER: &str = "owner";
const SHARER: &str = "sharer";
const LONELY: &str = "lonely";
const NEIGHBOUR: &str = "neighbour";

/// Everything.
struct Stage {
    scene: Scene,
    /// What owner and sharer have together.
    shared: Place,
    neighbour: Place,
    owner_id: String,
}

impl Stage {
    /// An engine that its containers outlive, all of them born under dtm's eyes.
    fn new(kind: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions {
            live_restore: true,
            ..EngineOptions::new(kind)
        })?;
        scene.start_dtm(&[])?;
        let receive = UDP.to_string();
        scene.run(NEIGHBOUR, FRONT, &["traffic", "udp-receive", &receive])?;
        scene.run(OWNER, FRONT, &["sleep", "3600"])?;
        let into = format!("container:{OWNER}");
        scene.run(SHARER, &into, &["traffic", "udp-receive", &receive])?;
        scene.run(LONELY, "none", &["sleep", "3600"])?;
        let stage = Self {
            shared: Place::on_bridge(&scene, OWNER, FRONT)?,
            neighbour: Place::on_bridge(&scene, NEIGHBOUR, FRONT)?,
            owner_id: scene.engine.docker(["inspect", "--format", "{{.Id}}", OWNER])?,
            scene,
        };
        for place in [&stage.shared, &stage.neighbour] {
            place.wait_shown(&stage.scene)?;
            wait_listening(&inside(&stage.scene, &place.container)?, UDP)?;
        }
        stage.introduce()?;
        Ok(stage)
    }

    /// Owner and neighbour know each other from here on: whoever is not sure of another asks seconds after he has sent.
    fn introduce(&self) -> Result<()> {
        for (name, other) in [(OWNER, NEIGHBOUR), (NEIGHBOUR, OWNER)] {
            let own = self.scene.engine.container_link(name, FRONT)?.name;
            let link = self.scene.engine.container_link(other, FRONT)?.address;
            let address = self.scene.address(other, FRONT, false)?;
            let known = [
                "neighbour",
                "replace",
                &address,
                "lladdr",
                &link,
                "dev",
                &own,
                "nud",
                "permanent",
            ];
            inside(&self.scene, name)?.run("ip", known)?;
        }
        Ok(())
    }

    fn send(&self, from: &str, to: &str, datagrams: u64) -> Result<()> {
        let address = self.scene.address(to, FRONT, false)?;
        let to = format!("{address}:{UDP}");
        let command = ["traffic", "udp-send", &to, &datagrams.to_string(), "500"];
        self.scene.exec(from, &command).map(drop)
    }

    /// The sharer is known, and whose namespace it is in; it has no series of its own, and nobody says it is unseen.
    fn sharer_names_the_owner(&self) -> Result<()> {
        let of = [("name", SHARER), ("network_container_id", self.owner_id.as_str())];
        eventually(PATIENCE, "the sharer is known", || {
            Ok((self.scene.samples()?.all(INFO, &of).count() == 1).then_some(()))
        })?;
        let samples = self.scene.samples()?;
        ensure!(is_covered(&samples, SHARER), "the sharer is said to be unseen");
        for name in [RECEIVED_BYTES, SENT_BYTES] {
            agree(name, samples.all(name, &[("name", SHARER)]).count(), 0)?;
        }
        Ok(())
    }
}

/// Whoever of the two sends or receives: once, under the owner.
fn what_is_shared_is_the_owners(stage: &Stage) -> Result<()> {
    let places = [&stage.shared, &stage.neighbour];
    let readings = during(&stage.scene, &places, || {
        stage.send(OWNER, NEIGHBOUR, 100)?;
        stage.send(SHARER, NEIGHBOUR, 200)?;
        // Its receiver is the sharer.
        stage.send(NEIGHBOUR, OWNER, 150)
    })?;
    all_exact(&places, &readings)?;
    let moved = readings[0].kernel;
    ensure!(
        moved.transmit.packets >= 300 && moved.receive.packets >= 150,
        "not everything passed: {moved:?}"
    );
    stage.sharer_names_the_owner()?;
    only_these_series(&stage.scene, &[stage.shared.names(), stage.neighbour.names()])
}

/// Whoever of the two asks, is refused, or loses what a rule throws away: the owner.
fn connections_and_drops_are_the_owners(stage: &Stage) -> Result<()> {
    let closed = format!("{}:{CLOSED}", stage.scene.address(NEIGHBOUR, FRONT, false)?);
    for asker in [OWNER, SHARER] {
        asks(&stage.scene, OWNER, (0, 4), || {
            stage
                .scene
                .exec(asker, &["traffic", "tcp-refused", &closed, "4"])
                .map(drop)
        })?;
    }
    let to = format!("{}:{BARRED}", stage.scene.address(OWNER, FRONT, false)?);
    loses(&stage.scene, OWNER, || {
        stage
            .scene
            .exec(NEIGHBOUR, &["traffic", "udp-send", &to, "70", "300"])
            .map(drop)
    })?;
    let samples = stage.scene.samples()?;
    let all = samples.all("dtm_container_tcp_connections_failed_total", &[("name", SHARER)]);
    agree("the sharer's own", all.count(), 0)
}

/// A container without a network: known, nothing to see, and nothing unseen.
fn none_is_known_and_has_no_series(stage: &Stage) -> Result<()> {
    let samples = stage.scene.samples()?;
    let info = [("name", LONELY), ("network_mode", "none")];
    agree("what is known of it", samples.all(INFO, &info).count(), 1)?;
    let all = samples
        .iter()
        .filter(|sample| sample.labels.get("name").is_some_and(|name| name == LONELY));
    let traffic: Vec<_> = all
        .filter(|sample| sample.name.contains("_network_") || sample.name == UNCOVERED)
        .collect();
    ensure!(traffic.is_empty(), "it has {traffic:?}");
    Ok(())
}

/// An engine that ends a container takes its interface away, whoever is left in the namespace: the owner's totals stay as
/// they were, and the sharer still says whose namespace it is in.
fn the_owner_stops(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    let before = read(scene, &[&stage.shared])?[0].ours.transmit.bytes;
    scene.engine.docker(["stop", "--time", "0", OWNER])?;
    eventually(PATIENCE, "the owner's gauges have gone", || {
        let left = scene.samples()?.all(INFO, &[("name", OWNER)]).count();
        Ok((left == 0).then_some(()))
    })?;
    let left = scene.engine.container_links(SHARER)?;
    agree("interfaces that the sharer has left", left, Vec::new())?;
    let after = scene.samples()?.get(SENT_BYTES, &stage.shared.labels())?;
    agree("what the owner has sent", after, before)?;
    stage.sharer_names_the_owner()
}

/// The owner is started again, in a namespace of its own: its series goes on. The sharer is there when it has restarted too.
fn the_owner_starts(stage: &mut Stage) -> Result<()> {
    let scene = &stage.scene;
    let past = scene.samples()?.get(SENT_BYTES, &stage.shared.labels())?;
    scene.engine.docker(["start", OWNER])?;
    scene.engine.docker(["restart", "--time", "0", SHARER])?;
    stage.shared = Place::on_bridge(scene, OWNER, FRONT)?;
    stage.shared.wait_shown(scene)?;
    wait_listening(&inside(scene, OWNER)?, UDP)?;
    stage.introduce()?;
    what_is_shared_is_the_owners(stage)?;
    let after = read(&stage.scene, &[&stage.shared])?[0];
    let both = past + after.kernel.transmit.bytes;
    agree("sent in both lives", after.ours.transmit.bytes, both)
}

/// Nobody but the sharer is left in the namespace, and its interface is there, as no engine has heard of the owner's end:
/// the series goes on under the owner. It is no other when there is an engine again, which leaves the interface alone.
fn the_owner_ends_unheard(stage: &mut Stage) -> Result<()> {
    let owner = process(&stage.scene, OWNER)?;
    let sharer = process(&stage.scene, SHARER)?;
    let to = format!("{}:{UDP}", stage.scene.address(NEIGHBOUR, FRONT, false)?);
    stage.scene.engine.kill()?;
    wait_docker(&stage.scene, 0)?;
    let owner = i32::try_from(owner).ok().and_then(Pid::from_raw);
    kill_process(owner.context("a process id")?, Signal::KILL)?;
    goes_on_without_the_owner(stage, sharer, &to)?;

    stage.scene.engine.start_again()?;
    wait_docker(&stage.scene, 1)?;
    let running = ["ps", "--quiet", "--filter", "name=^owner$"];
    eventually(PATIENCE, "the owner's end is known", || {
        Ok(stage.scene.engine.docker(running)?.is_empty().then_some(()))
    })?;
    goes_on_without_the_owner(stage, sharer, &to)?;
    stage.sharer_names_the_owner()
}

fn goes_on_without_the_owner(stage: &Stage, sharer: u32, to: &str) -> Result<()> {
    let places = [&stage.shared, &stage.neighbour];
    let readings = during(&stage.scene, &places, || {
        let send = ["udp-send", to, "120", "500"];
        Network::of_process(sharer)?.run(traffic()?, send).map(drop)
    })?;
    all_exact(&places, &readings)?;
    let moved = readings[0].kernel.transmit;
    ensure!(moved.packets >= 120, "not everything was sent: {moved:?}");
    only_these_series(&stage.scene, &[stage.shared.names(), stage.neighbour.names()])
}

fn a_shared_namespace_is_its_owners(kind: EngineKind) -> Result<()> {
    let mut stage = Stage::new(kind)?;
    hold(
        &stage,
        &[
            ("what is shared is the owner's", what_is_shared_is_the_owners),
            (
                "connections and drops are the owner's",
                connections_and_drops_are_the_owners,
            ),
            ("none is known and has no series", none_is_known_and_has_no_series),
            ("the owner stops", the_owner_stops),
        ],
    )?;
    holds("the owner starts", || the_owner_starts(&mut stage))?;
    holds("the owner ends unheard", || the_owner_ends_unheard(&mut stage))
}

#[test]
fn a_shared_namespace_is_its_owners_on_the_old_engine() -> Result<()> {
    a_shared_namespace_is_its_owners(EngineKind::Old)
}

#[test]
fn a_shared_namespace_is_its_owners_on_the_current_engine() -> Result<()> {
    a_shared_namespace_is_its_owners(EngineKind::Current)
}
