//! A dtm that comes and goes, beside containers that send known amounts.

use anyhow::{Result, ensure};
use dtm_tests::{
    known::{has_sent, id_of, port_of, send},
    scene::{Endpoint, Moved, SILENT, Scene, growth},
    watch::Watch,
};
use xtask::host::{EngineKind, EngineOptions};

/// How long final totals stay in these tests.
pub(crate) const LINGER: &str = "5s";

/// An engine with a silent network and a receiver on it, watched by a dtm that can be ended and started again.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    /// Where the receiver receives.
    pub(crate) to: String,
    mode: &'static str,
    watch: Watch,
}

/// What the kernel and dtm have counted at one moment.
pub(crate) type Both = (Moved, Moved);

impl Stage {
    /// Starts everything; dtm attaches in this mode.
    pub(crate) fn new(kind: EngineKind, mode: &'static str) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(kind))?;
        scene.make_silent_network()?;
        scene.start_dtm(&arguments(mode))?;
        scene.run("receiver", SILENT, &["traffic", "udp-receive", "5002"])?;
        scene.wait_named(&scene.endpoint("receiver", SILENT)?)?;
        Ok(Self {
            to: port_of(&scene, "receiver", SILENT)?,
            watch: Watch::through_restarts(&scene)?,
            scene,
            mode,
        })
    }

    /// The arguments that dtm is started with.
    pub(crate) fn arguments(&self) -> [&'static str; 4] {
        arguments(self.mode)
    }

    /// Starts dtm again.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.scene.start_dtm(&arguments(self.mode))
    }

    /// Starts a container that does nothing by itself.
    pub(crate) fn run(&self, name: &str) -> Result<()> {
        self.scene.run(name, SILENT, &["sleep", "3600"])
    }

    /// Has a container send datagrams to the receiver.
    pub(crate) fn send(&self, name: &str, datagrams: u64) -> Result<()> {
        send(&self.scene, name, &self.to, datagrams)
    }

    /// Starts a container, has it send, and waits until dtm has counted that. Returns its id.
    pub(crate) fn sender(&self, name: &str, datagrams: u64) -> Result<String> {
        self.run(name)?;
        self.send(name, datagrams)?;
        let id = id_of(&self.scene, name)?;
        has_sent(&self.scene, &id, datagrams)?;
        Ok(id)
    }

    /// Where a container is on the silent network.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Endpoint> {
        self.scene.endpoint(name, SILENT)
    }

    /// Removes a container.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.scene.engine.docker(["rm", "--force", name]).map(drop)
    }

    /// Says what was wrong in any scrape since the start.
    pub(crate) fn finish(self) -> Result<Scene> {
        self.watch.finish()?;
        Ok(self.scene)
    }
}

fn arguments(mode: &'static str) -> [&'static str; 4] {
    ["--attach-mode", mode, "--linger", LINGER]
}

/// Holds what dtm has counted since `before` to what the kernel has, which is to be something.
pub(crate) fn grows_exactly(scene: &Scene, endpoint: &Endpoint, before: Both) -> Result<()> {
    let after = scene.both(endpoint)?;
    is_exact(endpoint, before, after)
}

/// Holds dtm's growth between two moments to the kernel's.
pub(crate) fn is_exact(endpoint: &Endpoint, before: Both, after: Both) -> Result<()> {
    let (kernel, counted) = (growth(before.0, after.0), growth(before.1, after.1));
    ensure!(
        counted == kernel,
        "{endpoint:?}: grown by {counted:?}, the kernel's count by {kernel:?}"
    );
    ensure!(kernel != (0, 0), "{endpoint:?} has moved nothing");
    Ok(())
}

/// How many interfaces dtm has found in this state at its start.
pub(crate) fn found(scene: &Scene, state: &str) -> Result<u64> {
    scene
        .samples()?
        .get("dtm_takeover_interfaces", &[("found", state)])
}
