//! `cargo xtask demo`: true numbers on any Linux machine, with or without a Docker of its own.

mod forward;
pub(crate) mod interrupt;
pub(crate) mod privilege;
pub(crate) mod sample;
mod scene;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use xtask::host::{CgroupWorld, Engine, EngineKind, EngineOptions, Host, Running, eventually};

use crate::setup::{self, Need};
use crate::workspace;
use forward::Forwarder;
use interrupt::Interrupt;
use sample::Sample;

/// Where dtm listens, in the demo's namespace and, if nobody else does, on this host.
pub(crate) const PORT: u16 = 10048;
const READY: Duration = Duration::from_mins(1);
const COUNTED: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_secs(4);

/// Start a Docker engine of its own, containers that talk, and dtm counting them, until Ctrl-C.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// End by itself after this many seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// End by itself after the sample.
    #[arg(long, conflicts_with = "seconds")]
    once: bool,
    /// Which engine; without this the newest that is installed.
    #[arg(long, value_enum)]
    engine: Option<EngineKind>,
    /// A dtm that is built already.
    #[arg(long, value_name = "FILE")]
    dtm: Option<PathBuf>,
    /// More arguments for dtm.
    #[arg(last = true, value_name = "DTM ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Options {
    /// The whole of it, with this dtm.
    pub(crate) fn with(dtm: PathBuf, arguments: Vec<OsString>) -> Self {
        Self {
            dtm: Some(dtm),
            arguments,
            ..Self::default()
        }
    }

    /// As words of a command line.
    fn words(&self, dtm: &Path) -> Vec<OsString> {
        let Self {
            seconds,
            once,
            engine,
            dtm: _,
            arguments,
        } = self;
        let mut words: Vec<OsString> = vec!["demo".into(), "--dtm".into(), dtm.into()];
        words.extend(seconds.map(|seconds| format!("--for={seconds}").into()));
        words.extend(once.then(|| "--once".into()));
        words.extend(engine.map(|engine| format!("--engine={engine}").into()));
        words.push("--".into());
        words.extend(arguments.iter().cloned());
        words
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let dtm = binary(options.dtm.as_deref())?;
    privilege::ensure_root(&options.words(&dtm))?;
    let interrupt = Interrupt::listen()?;
    match play(options, &dtm, &interrupt) {
        // Not everything that was under way takes being interrupted for a reason to succeed.
        Err(_) if interrupt.arrived() => Ok(()),
        ended => ended,
    }
}

/// The daemon that is given, or else the one that these sources make.
pub(crate) fn binary(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return std::path::absolute(given).context("find dtm");
    }
    setup::ensure(Need::Run)?;
    let status = workspace::cargo()
        .args(["build", "--release", "--package", "dtm-daemon", "--bin", "dtm"])
        .status()
        .context("start cargo build")?;
    if !status.success() {
        bail!("dtm does not build");
    }
    Ok(workspace::target().join("release/dtm"))
}

fn play(options: &Options, dtm: &Path, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    let kind = options.engine.map_or_else(EngineKind::newest, Ok)?;
    println!("demo: starting Docker (the {kind} engine) in a network namespace of its own");
    let engine = Engine::start(Host::new(CgroupWorld::V2)?, EngineOptions::new(kind))?;
    let mut stage = Stage { engine, dtm: None };
    if !interrupt.arrived() {
        stage.play(options, dtm, interrupt, start)?;
    }
    println!("demo: removing everything");
    stage.close()
}

struct Stage {
    // In this order: dtm leaves while what it is attached to is still there.
    dtm: Option<Running>,
    engine: Engine,
}

impl Stage {
    fn play(&mut self, options: &Options, dtm: &Path, interrupt: &Interrupt, start: Instant) -> Result<()> {
        println!("demo: starting containers on the networks front and back");
        scene::set(&self.engine)?;
        let running = self.dtm.insert(start_dtm(&self.engine, dtm, &options.arguments)?);
        let inside = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let forwarder = Forwarder::start(self.engine.host().network()?, inside)?;
        let address = forwarder.address();
        let ready = eventually(READY, "dtm being ready", || {
            if let Some(status) = running.try_wait()? {
                bail!("dtm ended: {status}");
            }
            Ok((interrupt.arrived() || sample::is_ready(address)).then_some(()))
        });
        ready.map_err(|error| running.explain(&error))?;
        if address.port() != PORT {
            println!("demo: port {PORT} is taken, so it is {} here", address.port());
        }
        println!("demo: dtm answers at http://{address}/metrics");
        scene::play_short_lived(&self.engine)?;
        // Names and drops come with the containers' own rhythm.
        let counted = eventually(COUNTED, "every container in the metrics", || {
            Ok((interrupt.arrived() || scene::is_in(&Sample::take(address)?)).then_some(()))
        });
        if interrupt.arrived() {
            return Ok(());
        }
        println!("\n{}", Sample::take(address)?);
        if let Err(error) = counted {
            println!("demo: {error:#}");
        }
        if options.once {
            return Ok(());
        }
        let seconds = start.elapsed().as_secs();
        println!("demo: up after {seconds} s; for more: curl http://{address}/metrics (Ctrl-C ends it)");
        let end = options
            .seconds
            .map(|seconds| start + Duration::from_secs(seconds));
        while end.is_none_or(|end| Instant::now() < end) {
            let left = end.map_or(STEP, |end| end.saturating_duration_since(Instant::now()));
            if interrupt.wait(left.min(STEP)) {
                break;
            }
            if let Some(status) = running.try_wait()? {
                return Err(running.explain(&anyhow!("dtm ended: {status}")));
            }
            scene::play_short_lived(&self.engine)?;
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        let Self { dtm, engine } = self;
        if let Some(mut dtm) = dtm {
            dtm.stop()?;
        }
        engine.close()
    }
}

fn start_dtm(engine: &Engine, dtm: &Path, arguments: &[OsString]) -> Result<Running> {
    let mut command = engine.host().command(dtm);
    command.arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
    command.args(arguments);
    command.env("DOCKER_HOST", format!("unix://{}", engine.socket()));
    command
        .env_remove("DTM_DOCKER_HOST")
        .env_remove("DTM_WEB_LISTEN_ADDRESS");
    engine.host().spawn_command(&mut command, "dtm")
}
