//! A client and a server on a network with both IPs, and what the kernel and dtm count of their connections.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use dtm_tests::{
    far::{Version, wait_listening},
    scene::{BACK, PATIENCE, Scene},
    tcp::{self, Shown, shown},
};
use xtask::host::{EngineKind, EngineOptions, Network, eventually};

/// Where the server listens.
pub(crate) const PORT: u16 = 5001;

/// Both containers.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
}

impl Stage {
    /// With dtm there before both.
    pub(crate) fn new(kind: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(kind))?;
        scene.start_dtm(&[])?;
        let stage = Self { scene };
        stage.start_both()?;
        Ok(stage)
    }

    /// Starts both containers, and waits until dtm has their names.
    pub(crate) fn start_both(&self) -> Result<()> {
        let port = PORT.to_string();
        self.scene.run("server", BACK, &["traffic", "tcp-echo", &port])?;
        self.scene.run("client", BACK, &["sleep", "3600"])?;
        wait_listening(&self.inside("server")?, PORT)?;
        for name in ["server", "client"] {
            self.scene.wait_named(&self.scene.endpoint(name, BACK)?)?;
            self.wait(name, "its connections are known", |shown| {
                shown.connections.is_some()
            })?;
        }
        Ok(())
    }

    pub(crate) fn inside(&self, name: &str) -> Result<Network> {
        self.scene.engine.inside(name)
    }

    /// The server's port.
    pub(crate) fn server(&self, version: Version) -> Result<String> {
        let address = self.scene.address("server", BACK, version == Version::V6)?;
        Ok(format!("{address}:{PORT}"))
    }

    /// Runs `traffic` in a container.
    pub(crate) fn traffic(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.scene.exec(name, &[&["traffic"], arguments].concat())
    }

    /// What dtm shows of a container.
    pub(crate) fn shown(&self, name: &str) -> Result<Shown> {
        shown(&self.scene.samples()?, name)
    }

    /// Waits until dtm shows something of a container.
    pub(crate) fn wait(&self, name: &str, what: &str, is_so: impl Fn(&Shown) -> bool) -> Result<Shown> {
        let mut last = None;
        eventually(PATIENCE, what, || {
            let Ok(shown) = self.shown(name) else {
                return Ok(None);
            };
            last = Some(shown.clone());
            Ok(is_so(&shown).then_some(shown))
        })
        .with_context(|| format!("{name}: {last:?}"))
    }

    /// The kernel's count once it does not move any more, and dtm's of the same moment.
    pub(crate) fn both(&self, name: &str) -> Result<(BTreeMap<String, u64>, Shown)> {
        tcp::both(&self.scene, &self.inside(name)?, name)
    }
}
