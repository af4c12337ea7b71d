//! `cargo xtask run`: dtm from these sources, on this host's Docker.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Error, Result, bail, ensure};
use xtask::host::{Running, eventually, get};

use crate::demo::interrupt::Interrupt;
use crate::demo::sample::{self, Sample};
use crate::demo::{self, privilege};

const DEFAULT_ENGINE: &str = "unix:///var/run/docker.sock";
const TIMEOUT: Duration = Duration::from_secs(5);
const READY: Duration = Duration::from_mins(1);
const COUNTED: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(500);

/// Build dtm and run it as root on this host's Docker; without one, the demo.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A dtm that is built already.
    #[arg(long, value_name = "FILE")]
    dtm: Option<PathBuf>,
    /// Arguments for dtm.
    #[arg(last = true, value_name = "DTM ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { dtm, arguments } = options;
    let dtm = demo::binary(dtm.as_deref())?;
    let engine = setting(arguments, "--docker.host", &["DTM_DOCKER_HOST", "DOCKER_HOST"]);
    let engine = engine.unwrap_or_else(|| DEFAULT_ENGINE.to_owned());
    if let Err(error) = answers(&engine) {
        println!(
            "run: no Docker engine answers at {engine} ({error:#}): here is the demo, with one of its own"
        );
        return demo::run(&demo::Options::with(dtm, arguments.clone()));
    }
    let mut words: Vec<OsString> = vec!["run".into(), "--dtm".into(), dtm.clone().into(), "--".into()];
    words.extend(arguments.iter().cloned());
    privilege::ensure_root(&words)?;
    observe(&dtm, arguments)
}

/// Runs the daemon in the foreground, and shows what it sees once it sees it.
fn observe(dtm: &Path, arguments: &[OsString]) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    let mut command = Command::new(dtm);
    command.args(arguments);
    // Who only wants to look leaves nothing behind; a flag says otherwise.
    if env::var_os("DTM_NO_PIN").is_none() {
        command.env("DTM_NO_PIN", "true");
    }
    // A terminal's Ctrl-C comes to this process, which passes it on once.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut running = Running::spawn(&mut command)?;
    let elsewhere = ["--web.listen-address", "--web.telemetry-path", "--config"];
    let elsewhere = elsewhere.iter().any(|flag| {
        let variable = format!("DTM_{}", flag[2..].replace(['.', '-'], "_").to_uppercase());
        setting(arguments, flag, &[&variable]).is_some()
    });
    if !elsewhere {
        show(&mut running, &interrupt)?;
    }
    while !interrupt.wait(STEP) {
        if let Some(status) = running.try_wait()? {
            ensure!(status.success(), "dtm ended: {status}");
            return Ok(());
        }
    }
    running.stop().map(drop)
}

fn show(running: &mut Running, interrupt: &Interrupt) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, demo::PORT));
    let mut over = || Ok::<_, Error>(interrupt.arrived() || running.try_wait()?.is_some());
    let ready = eventually(READY, "dtm being ready", || {
        Ok((over()? || sample::is_ready(address)).then_some(()))
    });
    if let Err(error) = ready {
        // It has said why itself, and may yet become ready.
        println!("run: {error:#}");
        return Ok(());
    }
    // What runs already starts at 0: numbers come with its next packets, if it sends any.
    let counted = eventually(COUNTED, "traffic", || {
        let sample = Sample::take(address);
        Ok((over()? || sample?.has_any_traffic()).then_some(()))
    });
    if over()? {
        return Ok(());
    }
    println!("run: dtm answers at http://{address}/metrics (Ctrl-C ends it)");
    println!("\n{}", Sample::take(address)?);
    if counted.is_err() {
        println!("run: no container has sent anything yet");
    }
    Ok(())
}

/// What dtm will take `flag` to be, from its arguments or, after them, its environment.
fn setting(arguments: &[OsString], flag: &str, variables: &[&str]) -> Option<String> {
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        if argument == flag {
            return arguments.next().map(Into::into);
        }
        if let Some(value) = argument
            .strip_prefix(flag)
            .and_then(|rest| rest.strip_prefix('='))
        {
            return Some(value.to_owned());
        }
    }
    let set = variables
        .iter()
        .filter_map(|name| env::var(OsStr::new(name)).ok());
    set.into_iter().find(|value| !value.is_empty())
}

/// Asks the engine whether it is there.
fn answers(engine: &str) -> Result<()> {
    let answer = if let Some(path) = engine.strip_prefix("unix://") {
        match UnixStream::connect(path) {
            // Root will be let in.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
            connected => {
                let socket = connected?;
                socket.set_read_timeout(Some(TIMEOUT))?;
                get(socket, "/_ping")?
            }
        }
    } else if let Some(address) = engine.strip_prefix("tcp://").or(engine.strip_prefix("http://")) {
        let socket = connect(address.trim_end_matches('/'))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        get(socket, "/_ping")?
    } else {
        // What dtm does not understand, it says itself.
        return Ok(());
    };
    if answer.status != 200 {
        bail!("it says {}", answer.status);
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_in_either_spelling() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let flag = |arguments: &[&str]| setting(&words(arguments), "--docker.host", &["DTM_TEST_UNSET"]);
        assert_eq!(
            flag(&["--linger", "1m", "--docker.host", "unix:///a"]).unwrap(),
            "unix:///a"
        );
        assert_eq!(flag(&["--docker.host=unix:///b"]).unwrap(), "unix:///b");
        assert_eq!(flag(&["--docker.hosts=unix:///b"]), None);
    }

    #[test]
    fn a_socket_nobody_listens_on_does_not_answer() {
        assert!(answers("unix:///nonexistent/docker.sock").is_err());
    }
}
