//! The daemon under test, as a process of its own in a host, asked over HTTP.

mod http;
mod samples;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use xtask::host::{Host, Network, Running, eventually};

pub use http::{Response, get, percent_encoded};
pub use samples::{Sample, Samples};

/// How long a start may take: the whole machine's other work included.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a stop may take that nobody times: each TCX link waits for the whole machine's RCU.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running dtm.
#[derive(Debug)]
pub struct Dtm {
    network: Network,
    address: SocketAddr,
    process: Running,
}

impl Dtm {
    /// Starts it in `host` with `arguments` and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Where it ends or does not become ready: with its log.
    pub fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        Self::start_other(host, "dtm", arguments)
    }

    /// As [`start`](Self::start), with a dtm of another kernel side: `dtm-other-program` or `dtm-other-layout`.
    ///
    /// # Errors
    ///
    /// As of [`start`](Self::start).
    pub fn start_other(host: &Host, program: &str, arguments: &[&str]) -> Result<Self> {
        Self::started(
            host,
            host.spawn(binary(program)?, arguments.iter().map(OsString::from))?,
        )
    }

    /// Waits until `process`, started in `host` in whatever way, is ready.
    ///
    /// # Errors
    ///
    /// As of [`start`](Self::start).
    pub fn started(host: &Host, process: Running) -> Result<Self> {
        Self::answering(host, process, "/-/ready")
    }

    /// Waits until `process` answers to a scrape: it need not have heard Docker yet.
    ///
    /// # Errors
    ///
    /// As of [`start`](Self::start).
    pub fn scraped(host: &Host, process: Running) -> Result<Self> {
        Self::answering(host, process, "/metrics")
    }

    fn answering(host: &Host, process: Running, path: &str) -> Result<Self> {
        let mut dtm = Self {
            network: host.network()?,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 10048)),
            process,
        };
        eventually(READY_WITHIN, &format!("dtm answers to {path}"), || {
            if let Some(status) = dtm.process.try_wait()? {
                bail!("dtm ended with {status}: {}", dtm.process.log());
            }
            let answer = get(&dtm.network, dtm.address, path, &[]);
            Ok(answer.is_ok_and(|response| response.status == 200).then_some(()))
        })
        .with_context(|| dtm.process.log())?;
        Ok(dtm)
    }

    /// Where it listens, in the host.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id, which is the machine's.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Scrapes it.
    pub fn metrics(&self, headers: &[(&str, &str)]) -> Result<Response> {
        get(&self.network, self.address, "/metrics", headers)
    }

    /// Scrapes it for its samples.
    pub fn samples(&self) -> Result<Samples> {
        let response = self.metrics(&[])?;
        ensure!(
            response.status == 200,
            "a scrape was answered with {}",
            response.status
        );
        Samples::parse(response.text()?)
    }

    /// Sends it `signal` and waits for its end.
    ///
    /// # Errors
    ///
    /// Where it has not ended within `patience`, or not with success.
    pub fn end(mut self, signal: Signal, patience: Duration) -> Result<()> {
        self.process.signal(signal)?;
        let status = self.process.wait(patience).with_context(|| self.process.log())?;
        ensure!(
            status.success(),
            "dtm ended with {status}: {}",
            self.process.log()
        );
        Ok(())
    }

    /// Kills it, as the kernel does where memory is short: it can clear away nothing.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Stops it as an operator would, and waits for its end.
    ///
    /// # Errors
    ///
    /// Where it does not end with success.
    pub fn stop(self) -> Result<()> {
        self.end(Signal::TERM, STOP_WITHIN)
    }
}

/// A program that was built with these tests, beside them.
///
/// # Errors
///
/// Where it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the test's own file")?;
    let profile = own
        .parent()
        .and_then(|deps| deps.parent())
        .context("the test lies outside a target directory")?;
    let binary = profile.join(name);
    if !binary.is_file() {
        bail!(
            "there is no {}: build it first, with `cargo build --workspace`",
            binary.display()
        );
    }
    Ok(binary)
}
