//! Podman's containers, one of each kind, and somebody outside of the host.

use anyhow::Result;
use dtm_tests::{
    far::{Far, UDP, Version, wait_listening},
    scene::{BACK, FRONT, PATIENCE, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::{
    facts::SENT_BYTES,
    host::stage::labels,
    places::{Place, inside},
};

/// Podman's own network, and the names of a container and of its bridge there.
pub(super) const DEFAULT: &str = "podman";
pub(super) const ON_DEFAULT: &str = "plain";
pub(super) const DEFAULT_BRIDGE: &str = "podman0";
/// Containers on a network that was made for them.
pub(super) const WEB: &str = "web";
pub(super) const DB: &str = "db";
/// In the first one's network.
pub(super) const SHARER: &str = "sharer";
/// Two on the host's network, and one on none.
pub(super) const ONE: &str = "one";
pub(super) const TWO: &str = "two";
pub(super) const LONELY: &str = "lonely";
/// Where [`ONE`] receives.
pub(super) const ONE_PORT: u16 = 6001;

/// Everything.
#[derive(Debug)]
pub(super) struct Stage {
    // In the order in which they have to end.
    pub(super) far: Far,
    pub(super) web: Place,
    pub(super) db: Place,
    pub(super) plain: Place,
    pub(super) scene: Scene,
}

impl Stage {
    /// All of them are born under the eyes of a dtm that is pointed at Podman as every client of Docker's is.
    pub(super) fn new() -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(EngineKind::Podman))?;
        scene.silence_bridges()?;
        watch(&mut scene, &[])?;
        let far = Far::new(scene.host(), 1)?;
        let receive = UDP.to_string();
        let receive = ["traffic", "udp-receive", receive.as_str()];
        scene.run(WEB, FRONT, &receive)?;
        scene.run(DB, FRONT, &receive)?;
        scene.run_with(ON_DEFAULT, &[], &receive)?;
        scene.run(SHARER, &format!("container:{WEB}"), &["sleep", "3600"])?;
        scene.run(ONE, "host", &["traffic", "udp-receive", &ONE_PORT.to_string()])?;
        scene.run(TWO, "host", &["sleep", "3600"])?;
        scene.run(LONELY, "none", &["sleep", "3600"])?;
        let stage = Self {
            web: Place::on_bridge(&scene, WEB, FRONT)?,
            db: Place::on_bridge(&scene, DB, FRONT)?,
            plain: Place::on_bridge(&scene, ON_DEFAULT, DEFAULT)?,
            far,
            scene,
        };
        stage.wait_shown()?;
        for place in stage.places() {
            wait_listening(&inside(&stage.scene, &place.container)?, UDP)?;
        }
        wait_listening(&stage.scene.host().network()?, ONE_PORT)?;
        Ok(stage)
    }

    /// The containers on bridges.
    pub(super) fn places(&self) -> [&Place; 3] {
        [&self.web, &self.db, &self.plain]
    }

    /// The labels of all series that there are.
    pub(super) fn all_series(&self) -> [[&str; 3]; 5] {
        [
            self.web.names(),
            self.db.names(),
            self.plain.names(),
            [ONE, "host", ""],
            [TWO, "host", ""],
        ]
    }

    /// Waits until all of them are.
    pub(super) fn wait_shown(&self) -> Result<()> {
        for place in self.places() {
            place.wait_shown(&self.scene)?;
        }
        for name in [ONE, TWO] {
            wait_on_host(&self.scene, name)?;
        }
        Ok(())
    }

    /// Has a container send datagrams to another one's address on `network`.
    pub(super) fn send_to(&self, from: &str, to: &Place, datagrams: u64, size: u64) -> Result<()> {
        let address = self.scene.address(&to.container, &to.network, false)?;
        self.send(from, &format!("{address}:{UDP}"), datagrams, size)
    }

    /// Has a container send datagrams.
    pub(super) fn send(&self, from: &str, to: &str, datagrams: u64, size: u64) -> Result<()> {
        let (datagrams, size) = (datagrams.to_string(), size.to_string());
        let command = ["traffic", "udp-send", to, &datagrams, &size];
        self.scene.exec(from, &command).map(drop)
    }

    /// Where the one outside receives.
    pub(super) fn far_udp(&self) -> String {
        self.far.port(Version::V4, UDP)
    }
}

/// Starts dtm with `arguments`, by Docker's own variable.
pub(super) fn watch(scene: &mut Scene, arguments: &[&str]) -> Result<()> {
    let socket = format!("DOCKER_HOST=unix://{}", scene.engine.socket());
    scene.start_dtm_with(&socket, arguments)
}

/// Waits until a container on the host's network has its series.
pub(super) fn wait_on_host(scene: &Scene, name: &str) -> Result<()> {
    eventually(PATIENCE, &format!("the series of {name}"), || {
        Ok(scene.samples()?.find(SENT_BYTES, &labels(name))?.map(drop))
    })
}

/// The networks that are made for every scene.
pub(super) const MADE: [&str; 2] = [FRONT, BACK];
