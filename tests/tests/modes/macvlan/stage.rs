//! Two macvlan networks, each on top of an interface that leads to somebody outside of the host.

use anyhow::Result;
use dtm_tests::{
    far::{Far, TCP, UDP, Version, traffic, wait_listening},
    networks::{introduce, make_macvlan},
    scene::{SILENT, Scene},
};
use xtask::host::{EngineKind, EngineOptions};

use crate::places::{Place, inside};

/// The network whose containers reach each other, and that whose containers reach only who is outside.
pub(crate) const BRIDGE: &str = "mac-bridge";
pub(super) const PRIVATE: &str = "mac-private";

/// Everything.
#[derive(Debug)]
pub(super) struct Stage {
    // In the order in which they have to end. The first is behind the network of the one mode, the other behind the other.
    pub(super) far: Far,
    pub(super) private_far: Far,
    /// Two of each mode.
    pub(super) bridge: [Place; 2],
    pub(super) private: [Place; 2],
    /// One container's device, and its interface on a bridge network.
    pub(super) both: [Place; 2],
    pub(super) scene: Scene,
}

impl Stage {
    /// An engine with its networks and containers, all born under dtm's eyes.
    pub(super) fn new(engine: EngineKind) -> Result<Self> {
        let mut scene = Scene::new(EngineOptions::new(engine))?;
        scene.make_silent_network()?;
        scene.start_dtm(&[])?;
        let (far, private_far) = (Far::new(scene.host(), 2)?, Far::new(scene.host(), 3)?);
        make_macvlan(&scene, &far, BRIDGE, "bridge")?;
        make_macvlan(&scene, &private_far, PRIVATE, "private")?;
        let start = |name: &str, network: &str| {
            let receive = format!("traffic udp-receive {UDP} & exec traffic tcp-receive {TCP}");
            scene.run(name, network, &["sh", "-c", &receive])?;
            Place::of_device(&scene, name, network)
        };
        let bridge = [start("first", BRIDGE)?, start("second", BRIDGE)?];
        let private = [start("third", PRIVATE)?, start("fourth", PRIVATE)?];
        let device = start("both", BRIDGE)?;
        scene.engine.docker(["network", "connect", SILENT, "both"])?;
        let both = [device, Place::on_bridge(&scene, "both", SILENT)?];
        let stage = Self {
            far,
            private_far,
            bridge,
            private,
            both,
            scene,
        };
        for (far, places) in [
            (
                &stage.far,
                &[&stage.bridge[0], &stage.bridge[1], &stage.both[0]][..],
            ),
            (&stage.private_far, &[&stage.private[0], &stage.private[1]]),
        ] {
            for place in places {
                introduce(&stage.scene, far, &place.container, &place.network)?;
            }
        }
        for place in stage.places() {
            place.wait_shown(&stage.scene)?;
            let network = inside(&stage.scene, &place.container)?;
            wait_listening(&network, UDP)?;
            wait_listening(&network, TCP)?;
        }
        Ok(stage)
    }

    pub(super) fn places(&self) -> Vec<&Place> {
        self.bridge
            .iter()
            .chain(&self.private)
            .chain(&self.both)
            .collect()
    }

    pub(super) fn run(&self, place: &Place, program: &str, arguments: &[&str]) -> Result<String> {
        inside(&self.scene, &place.container)?.run(program, arguments)
    }

    pub(super) fn send(&self, from: &Place, to: &str, datagrams: u64, size: u64) -> Result<()> {
        let (datagrams, size) = (datagrams.to_string(), size.to_string());
        self.run(from, &traffic()?, &["udp-send", to, &datagrams, &size])
            .map(drop)
    }

    pub(super) fn port(&self, of: &Place, port: u16) -> Result<String> {
        let address = self.scene.address(&of.container, &of.network, false)?;
        Ok(Version::V4.port(&address, port))
    }
}
