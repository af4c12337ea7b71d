//! An engine whose containers talk, one of them to a port where a rule drops everything, and a dtm that watches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use dtm_tests::daemon::Dtm;
use xtask::host::{CgroupWorld, Engine, EngineKind, EngineOptions, Host, Image};

/// The network all containers are on.
pub(crate) const FRONT: &str = "front";
/// Serves a file.
pub(crate) const SERVER: &str = "server";
/// Fetches it, again and again.
pub(crate) const CLIENT: &str = "client";
/// Knocks where nobody lets it in.
pub(crate) const DROPPED: &str = "dropped";

const IMAGE: &str = "dtm-test";
/// A port of the host that a rule closes without an answer.
const CLOSED_PORT: &str = "9999";

/// Two engines at a time would be in each other's way: attaching waits for the whole machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Everything, until it is dropped.
#[derive(Debug)]
pub(crate) struct Scene {
    // In the order in which they have to end.
    dtm: Dtm,
    engine: Engine,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Starts everything, dtm before the first container.
    pub(crate) fn start() -> Result<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let host = Host::new(CgroupWorld::V2)?;
        let engine = Engine::start(host, EngineOptions::new(EngineKind::newest()?))?;
        Image::busybox()?
            .with_file("/www/file", &vec![b'x'; 64 * 1024])?
            .import(&engine, IMAGE)?;
        engine.docker(["network", "create", FRONT])?;
        let drop_rule = ["-I", "INPUT", "-p", "tcp", "--dport", CLOSED_PORT, "-j", "DROP"];
        engine.host().run("iptables", drop_rule)?;
        let scene = Self {
            dtm: Dtm::start(engine.host(), &[])?,
            engine,
            _turn: turn,
        };
        scene.run(SERVER, "exec httpd -f -h /www")?;
        scene.run(
            CLIENT,
            "while :; do wget -q -O /dev/null http://server/file; sleep 0.1; done",
        )?;
        // The gateway answers pings: the network talks to its host, both ways.
        let knock = format!(
            "gateway=$(ip route | awk '/default/ {{ print $3 }}'); ping $gateway >/dev/null & \
             while :; do nc -w 1 $gateway {CLOSED_PORT} </dev/null; done"
        );
        scene.run(DROPPED, &knock)?;
        Ok(scene)
    }

    fn run(&self, name: &str, script: &str) -> Result<()> {
        let arguments = [
            "run",
            "--detach",
            "--init=false",
            "--name",
            name,
            "--network",
            FRONT,
            IMAGE,
            "sh",
            "-c",
            script,
        ];
        self.engine.docker(arguments).map(drop)
    }

    /// One that sends and ends; it is gone when this returns.
    pub(crate) fn run_a_short_lived_container(&self) -> Result<()> {
        let fetch = "for i in 1 2 3 4 5; do wget -q -O /dev/null http://server/file; done";
        self.engine
            .docker(["run", "--rm", "--network", FRONT, IMAGE, "sh", "-c", fetch])
            .map(drop)
    }

    /// Where all of it is.
    pub(crate) fn host(&self) -> &Host {
        self.engine.host()
    }

    /// What watches it.
    pub(crate) fn dtm(&self) -> &Dtm {
        &self.dtm
    }
}
