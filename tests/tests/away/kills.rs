//! A dtm that is killed and started again, fifty times, under traffic that never stops and with containers that come and
//! go beside it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    known::{PAYLOAD, SENT_BYTES, goes_on, has_sent, id_of},
    scene::{IMAGE, PATIENCE, SILENT},
};
use xtask::host::{EngineKind, Running};

use crate::{
    load::Load,
    stage::{Stage, grows_exactly},
};

/// What a guest sends at a time.
const DATAGRAMS: u64 = 50;

/// The stage and what has happened on it.
struct Kills {
    stage: Stage,
    /// How long each start took, from the command to readiness.
    starts: Vec<Duration>,
    guests: u32,
}

/// What happens around a kill or two, in words and in code.
type Around = (&'static str, fn(&mut Kills) -> Result<()>);

/// A round: ten kills.
const ROUND: &[Around] = &[
    ("nobody comes or goes", Kills::nobody),
    ("one lives through it", Kills::one_lives_through_it),
    ("nobody comes or goes", Kills::nobody),
    ("one ends meanwhile", Kills::one_ends_meanwhile),
    ("nobody comes or goes", Kills::nobody),
    ("one comes meanwhile", Kills::one_comes_meanwhile),
    (
        "one comes and goes meanwhile",
        Kills::one_comes_and_goes_meanwhile,
    ),
    ("nobody comes or goes", Kills::nobody),
    ("one comes at the start", Kills::one_comes_at_the_start),
];

impl Kills {
    fn kill(&mut self) -> Result<()> {
        self.stage.scene.kill_dtm()
    }

    fn start(&mut self) -> Result<()> {
        let start = Instant::now();
        self.stage.start()?;
        self.starts.push(start.elapsed());
        Ok(())
    }

    /// A name that nobody has had.
    fn guest(&mut self) -> String {
        self.guests += 1;
        format!("guest{}", self.guests)
    }

    fn nobody(&mut self) -> Result<()> {
        self.kill()?;
        self.start()
    }

    /// Born under dtm's eyes: everything since its birth is counted.
    fn one_lives_through_it(&mut self) -> Result<()> {
        let name = self.guest();
        let id = self.stage.sender(&name, DATAGRAMS)?;
        let endpoint = self.stage.endpoint(&name)?;
        self.kill()?;
        self.stage.send(&name, DATAGRAMS)?;
        self.start()?;
        has_sent(&self.stage.scene, &id, 2 * DATAGRAMS)?;
        goes_on(&self.stage.scene, &id, &endpoint, (0, 0))?;
        self.stage.remove(&name)
    }

    /// Born under dtm's eyes, and gone when it comes back: its totals are final.
    fn one_ends_meanwhile(&mut self) -> Result<()> {
        let name = self.guest();
        let id = self.stage.sender(&name, DATAGRAMS)?;
        self.kill()?;
        self.stage.send(&name, DATAGRAMS)?;
        self.stage.remove(&name)?;
        self.start()?;
        has_sent(&self.stage.scene, &id, 2 * DATAGRAMS).map(drop)
    }

    /// Counted from the next start on, through the one after it.
    fn one_comes_meanwhile(&mut self) -> Result<()> {
        let name = self.guest();
        self.kill()?;
        self.stage.run(&name)?;
        self.stage.send(&name, DATAGRAMS)?;
        self.start()?;
        let endpoint = self.stage.endpoint(&name)?;
        self.stage.scene.wait_named(&endpoint)?;
        let before = self.stage.scene.both(&endpoint)?;
        self.kill()?;
        self.stage.send(&name, DATAGRAMS)?;
        self.start()?;
        grows_exactly(&self.stage.scene, &endpoint, before)?;
        self.stage.remove(&name)
    }

    /// Nobody has seen it.
    fn one_comes_and_goes_meanwhile(&mut self) -> Result<()> {
        let name = self.guest();
        self.kill()?;
        let run = ["run", "--rm", "--name", &name, "--network", SILENT, IMAGE];
        let (count, size) = (DATAGRAMS.to_string(), PAYLOAD.to_string());
        let send = ["traffic", "udp-send", &self.stage.to, &count, &size];
        self.stage.scene.engine.docker(run.iter().chain(&send))?;
        self.start()?;
        let counted = self.stage.scene.samples()?.sum(SENT_BYTES, &[("name", &name)]);
        ensure!(counted == 0, "{counted} bytes of {name} were counted");
        Ok(())
    }

    /// Born while dtm attaches to what it finds.
    fn one_comes_at_the_start(&mut self) -> Result<()> {
        let name = self.guest();
        self.kill()?;
        let run = ["run", "--detach", "--stop-signal", "KILL"];
        let place = ["--name", &name, "--network", SILENT, IMAGE, "sleep", "3600"];
        let mut client = self.stage.scene.engine.docker_command(run.iter().chain(&place));
        let mut client = Running::spawn(client.stdout(Stdio::null()))?;
        self.start()?;
        let status = client.wait(PATIENCE)?;
        ensure!(status.success(), "{name} has not started: {status}");
        let (scene, id) = (&self.stage.scene, id_of(&self.stage.scene, &name)?);
        let endpoint = self.stage.endpoint(&name)?;
        scene.wait_named(&endpoint)?;
        let before = scene.both(&endpoint)?;
        self.stage.send(&name, DATAGRAMS)?;
        grows_exactly(scene, &endpoint, before)?;
        has_sent(scene, &id, DATAGRAMS)?;
        self.stage.remove(&name)
    }
}

/// The time that `percent` of the starts do not exceed.
fn percentile(starts: &mut [Duration], percent: usize) -> Duration {
    starts.sort_unstable();
    starts[(starts.len() * percent).div_ceil(100).saturating_sub(1)]
}

fn kills_lose_nothing(kind: EngineKind, mode: &'static str, kills: usize) -> Result<()> {
    let stage = Stage::new(kind, mode)?;
    let load = Load::start(&stage.scene)?;
    let first = load.moment(&stage.scene)?;
    load.is_whole(&first)?;
    let mut all = Kills {
        stage,
        starts: Vec::new(),
        guests: 0,
    };
    while all.starts.len() < kills {
        for (what, around) in ROUND {
            let kill = all.starts.len();
            around(&mut all).with_context(|| format!("{what}, after {kill} kills"))?;
        }
        let now = load.moment(&all.stage.scene)?;
        load.is_whole(&now)?;
        load.is_exact(&first, &now)?;
        now.loses_exactly(&first)?;
    }
    let Kills {
        stage, mut starts, ..
    } = all;
    println!(
        "{} starts on the {kind} engine with {mode}: ready in {:?} (p50), {:?} (p99)",
        starts.len(),
        percentile(&mut starts, 50),
        percentile(&mut starts, 99)
    );
    stage.finish().map(drop)
}

#[test]
fn fifty_kills_lose_nothing_on_the_old_engine_with_tcx() -> Result<()> {
    kills_lose_nothing(EngineKind::Old, "tcx", 50)
}

#[test]
fn fifty_kills_lose_nothing_on_the_current_engine_with_clsact() -> Result<()> {
    kills_lose_nothing(EngineKind::Current, "clsact", 50)
}

#[test]
fn ten_kills_lose_nothing_on_the_old_engine_with_clsact() -> Result<()> {
    kills_lose_nothing(EngineKind::Old, "clsact", 10)
}

#[test]
fn ten_kills_lose_nothing_on_the_current_engine_with_tcx() -> Result<()> {
    kills_lose_nothing(EngineKind::Current, "tcx", 10)
}
