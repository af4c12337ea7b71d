//! Containers that come and go, in every way they can.

use std::{panic::resume_unwind, thread};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::scene::{BACK, FRONT, IMAGE, PATIENCE, Scene};
use xtask::host::eventually;

use crate::watched::{PORT, RESIDENT};

/// Lanes beside each other: what holds a start up is the engine's waiting, and the kernel's.
const LANES: usize = 4;

/// Datagrams each ordinary container sends.
const DATAGRAMS: usize = 20;

/// Does `work` with each number below `count`, several at a time, and returns all results.
pub(crate) fn side_by_side<T: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let lane = |lane: usize| {
        (lane..count)
            .step_by(LANES)
            .map(&work)
            .collect::<Result<Vec<_>>>()
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|number| scope.spawn(move || lane(number)))
            .collect();
        let mut results = Vec::new();
        for lane in lanes {
            results.extend(lane.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(results)
    })
}

/// Lives of containers on one scene.
pub(crate) struct Churn<'a> {
    scene: &'a Scene,
    /// Where the resident receives.
    to: String,
}

impl<'a> Churn<'a> {
    pub(crate) fn new(scene: &'a Scene) -> Result<Self> {
        let to = format!("{}:{PORT}", scene.address(RESIDENT, FRONT, false)?);
        Ok(Self { scene, to })
    }

    /// Lets `count` containers live, and holds dtm to having seen what they sent.
    pub(crate) fn run(&self, count: usize) -> Result<()> {
        let before = self.sent()?;
        let datagrams = side_by_side(count, |number| self.life(number))?;
        let datagrams: usize = datagrams.iter().sum();
        ensure!(datagrams > count, "hardly anything was sent");
        let mut now = before;
        let whole = eventually(PATIENCE, "all that was sent is in the network's sum", || {
            now = self.sent()?;
            Ok((now >= before + datagrams as u64).then_some(()))
        });
        whole.with_context(|| format!("{datagrams} datagrams were sent, the sum went from {before} to {now}"))
    }

    fn sent(&self) -> Result<u64> {
        let name = "dtm_network_containers_transmit_packets_total";
        self.scene.samples()?.get(name, &[("network", FRONT)])
    }

    /// One life; how many datagrams it has sent on the network in front.
    fn life(&self, number: usize) -> Result<usize> {
        let name = format!("life{number}");
        match number % 10 {
            0..5 => self.sends(&name),
            5 => self.is_on_two_networks(&name),
            6 => self.fails_to_start(&name),
            7 => self.is_killed(&name),
            8 => self.has_no_interface_of_its_own(&name, number),
            _ => self.is_restarted(&name),
        }
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.scene.engine.docker(arguments)
    }

    fn send(&self) -> String {
        format!("traffic udp-send {} {DATAGRAMS} 500", self.to)
    }

    fn sends(&self, name: &str) -> Result<usize> {
        let run = ["run", "--rm", "--name", name, "--network", FRONT, IMAGE];
        self.docker(&[&run[..], &["sh", "-c", &self.send()]].concat())?;
        Ok(DATAGRAMS)
    }

    fn is_on_two_networks(&self, name: &str) -> Result<usize> {
        let create = ["create", "--rm", "--name", name, "--network", FRONT, IMAGE];
        self.docker(&[&create[..], &["sh", "-c", &self.send()]].concat())?;
        self.docker(&["network", "connect", BACK, name])?;
        self.docker(&["start", "--attach", name])?;
        Ok(DATAGRAMS)
    }

    /// Its interface is made and taken away again, its process never runs.
    fn fails_to_start(&self, name: &str) -> Result<usize> {
        let run = [
            "run",
            "--rm",
            "--name",
            name,
            "--network",
            FRONT,
            IMAGE,
            "/absent",
        ];
        let refused = self.docker(&run);
        ensure!(refused.is_err(), "{name} has run what does not exist");
        Ok(0)
    }

    /// Loses packets of its own until dtm has counted some, then is killed.
    fn is_killed(&self, name: &str) -> Result<usize> {
        let lose = format!(
            "{}; while :; do traffic udp-send 127.0.0.1:9 1 100; usleep 20000; done",
            self.send()
        );
        let run = [
            "run",
            "--detach",
            "--rm",
            "--name",
            name,
            "--network",
            FRONT,
            IMAGE,
        ];
        self.docker(&[&run[..], &["sh", "-c", &lose]].concat())?;
        eventually(PATIENCE, &format!("drops of {name}"), || {
            let dropped = "dtm_container_network_dropped_packets_total";
            Ok((self.scene.samples()?.sum(dropped, &[("name", name)]) > 0).then_some(()))
        })?;
        self.docker(&["kill", name])?;
        Ok(DATAGRAMS)
    }

    fn has_no_interface_of_its_own(&self, name: &str, number: usize) -> Result<usize> {
        let shared = format!("container:{RESIDENT}");
        let network = ["host", "none", &shared][number / 10 % 3];
        self.docker(&["run", "--rm", "--name", name, "--network", network, IMAGE, "true"])?;
        Ok(0)
    }

    fn is_restarted(&self, name: &str) -> Result<usize> {
        let run = [
            "run",
            "--detach",
            "--stop-signal",
            "KILL",
            "--name",
            name,
            "--network",
            FRONT,
            IMAGE,
        ];
        self.docker(&[&run[..], &["sleep", "3600"]].concat())?;
        self.docker(&["restart", name])?;
        self.docker(&["exec", name, "sh", "-c", &self.send()])?;
        self.docker(&["rm", "--force", name])?;
        Ok(DATAGRAMS)
    }
}
