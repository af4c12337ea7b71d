//! Docker in Docker: an engine in a container makes bridges, pairs, namespaces and containers of its own. They are that
//! container's affair.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::{UDP, traffic, wait_listening},
    scene::{IMAGE, PATIENCE, SILENT, Scene},
    tally::Ways,
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::{
    facts::{agree, only_these_series},
    places::{Place, all_exact, bytes_exact, during, inside, read},
};

const OUTER: &str = "outer";
const NEIGHBOUR: &str = "neighbour";
/// Where the inner engine listens, in its container.
const SOCKET: &str = "--host=unix:///run/docker.sock";

/// The group that hands controllers down may hold no process itself.
const START: &str = "
    mkdir -p /sys/fs/cgroup/leaf
    echo $$ >/sys/fs/cgroup/leaf/cgroup.procs
    exec dockerd --host=unix:///run/docker.sock --data-root=/data --exec-root=/run/docker --pidfile=/run/docker.pid \\
        --exec-opt=native.cgroupdriver=cgroupfs --userland-proxy=false >/run/log 2>&1
";

struct Stage {
    outer: Place,
    neighbour: Place,
    scene: Scene,
}

impl Stage {
    /// A container with this machine's own engine in it, and a neighbour.
    fn new(kind: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(kind))?;
        scene.make_silent_network()?;
        scene.start_dtm(&[])?;
        scene.run(NEIGHBOUR, SILENT, &["traffic", "udp-receive", &UDP.to_string()])?;
        let image = scene.host().directory().join("inner.tar");
        let image = image.to_str().context("a path that is UTF-8")?;
        scene.engine.docker(["save", "--output", image, IMAGE])?;
        let image = format!("--volume={image}:/inner.tar:ro");
        let machine = ["/usr", "/lib", "/lib64", "/etc/alternatives"];
        let machine: Vec<_> = machine
            .iter()
            .map(|place| format!("--volume={place}:{place}:ro"))
            .collect();
        let options: Vec<_> = ["--network", SILENT, "--tmpfs=/run", "--tmpfs=/data:exec", &image]
            .into_iter()
            .chain(machine.iter().map(String::as_str))
            .chain(["--env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/bin"])
            .chain(scene.engine.privileged().iter().copied())
            .collect();
        scene.run_with(OUTER, &options, &["sh", "-euc", START])?;
        let stage = Self {
            outer: Place::on_bridge(&scene, OUTER, SILENT)?,
            neighbour: Place::on_bridge(&scene, NEIGHBOUR, SILENT)?,
            scene,
        };
        for place in [&stage.outer, &stage.neighbour] {
            place.wait_shown(&stage.scene)?;
        }
        wait_listening(&inside(&stage.scene, NEIGHBOUR)?, UDP)?;
        let ready = eventually(PATIENCE, "the inner engine answers", || {
            Ok(stage.inner(&["version"]).is_ok().then_some(()))
        });
        ready.with_context(|| stage.scene.exec(OUTER, &["cat", "/run/log"]).unwrap_or_default())?;
        stage.inner(&["load", "--input", "/inner.tar"])?;
        Ok(stage)
    }

    /// Runs the inner engine's client.
    fn inner(&self, arguments: &[&str]) -> Result<String> {
        let command: Vec<_> = ["docker", SOCKET].iter().chain(arguments).copied().collect();
        self.scene.exec(OUTER, &command)
    }

    /// Starts an inner container.
    fn run_inner(&self, options: &[&str], command: &[&str]) -> Result<String> {
        let run = [
            &["run", "--cap-add=NET_ADMIN"],
            options,
            &[IMAGE, "traffic"],
            command,
        ];
        self.inner(&run.concat())
    }
}

fn inner_containers_are_their_containers_affair(kind: EngineKind) -> Result<()> {
    let stage = Stage::new(kind)?;
    let places = [&stage.outer, &stage.neighbour];
    let port = UDP.to_string();
    let format = "--format={{.NetworkSettings.Networks.bridge.IPAddress}}";

    // Among inner containers: nothing of it gets out.
    stage.run_inner(&["--detach", "--name=inner"], &["udp-receive", &port])?;
    let inner = format!("{}:{port}", stage.inner(&["inspect", format, "inner"])?);
    let readings = during(&stage.scene, &places, || {
        stage
            .run_inner(&["--rm"], &["udp-send", &inner, "100", "500"])
            .map(drop)
    })?;
    all_exact(&places, &readings)?;
    let Ways { receive, transmit } = readings[0].kernel;
    ensure!(
        receive.packets + transmit.packets < 50,
        "inner traffic is outside: {readings:?}"
    );

    // From an inner one to the outer one's neighbour, and from the outer one itself.
    let neighbour = stage.scene.address(NEIGHBOUR, SILENT, false)?;
    let to = format!("{neighbour}:{port}");
    let readings = during(&stage.scene, &places, || {
        stage.run_inner(&["--rm"], &["udp-send", &to, "120", "600"])?;
        let send = ["udp-send", &to, "80", "700"];
        inside(&stage.scene, OUTER)?.run(traffic()?, send).map(drop)
    })?;
    all_exact(&places, &readings)?;
    let sent = readings[0].kernel.transmit;
    ensure!(sent.packets >= 200, "not everything was sent: {sent:?}");

    // All of the outer one's life, and nobody else.
    bytes_exact(&places, &read(&stage.scene, &places)?)?;
    only_these_series(&stage.scene, &[stage.outer.names(), stage.neighbour.names()])?;
    let running = [("state", "running")];
    let running = stage.scene.samples()?.get("dtm_containers", &running)?;
    agree("containers that run", running, 2)
}

#[test]
fn inner_containers_are_their_containers_affair_on_the_old_engine() -> Result<()> {
    inner_containers_are_their_containers_affair(EngineKind::Old)
}

#[test]
fn inner_containers_are_their_containers_affair_on_the_current_engine() -> Result<()> {
    inner_containers_are_their_containers_affair(EngineKind::Current)
}
