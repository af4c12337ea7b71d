//! An engine that is rootless, as dtm meets it: its networks are in another namespace, and it says so.
//!
//! The namespaces are those of a second host, where a real engine runs; what an engine of an ordinary user would say of
//! itself is put into its mouth on the way.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result};
use dtm_tests::{
    daemon::{Dtm, binary},
    scene::{FRONT, PATIENCE, Scene as Docker},
};
use xtask::host::{CgroupWorld, EngineKind, EngineOptions, Host, eventually};

use crate::{check::Said, scene::take_turn};

/// What such an engine answers to `GET /info`.
const INFO: &str = r#"{"SecurityOptions":["name=seccomp,profile=builtin","name=rootless","name=cgroupns"],"Swarm":{"LocalNodeState":"inactive"}}"#;

/// Lets who calls `socket` speak to the engine, and answers for it what is asked of itself.
fn speak_for(engine: PathBuf, socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).context("listen for dtm")?;
    thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let engine = engine.clone();
            thread::spawn(move || put_through(caller, &engine));
        }
    });
    Ok(())
}

/// Puts one caller through; whoever hangs up ends it.
fn put_through(mut caller: UnixStream, engine: &Path) -> std::io::Result<()> {
    let mut first = vec![0; 4096];
    let length = caller.read(&mut first)?;
    let line = String::from_utf8_lossy(&first[..length]);
    if line.split(' ').nth(1).is_some_and(|path| path.ends_with("/info")) {
        let length = INFO.len();
        return write!(
            caller,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{INFO}"
        );
    }
    let mut engine = UnixStream::connect(engine)?;
    engine.write_all(&first[..length])?;
    let (mut back, mut to) = (engine.try_clone()?, caller.try_clone()?);
    let answers = thread::spawn(move || std::io::copy(&mut back, &mut to));
    std::io::copy(&mut caller, &mut engine)?;
    engine.shutdown(std::net::Shutdown::Write)?;
    drop(answers.join());
    Ok(())
}

#[test]
fn what_a_rootless_engine_hides_is_listed_and_said_once() -> Result<()> {
    let _turn = take_turn();
    let docker = Docker::new(EngineOptions::new(EngineKind::newest()?))?;
    let sleep = ["sleep", "3600"];
    docker.run("web", FRONT, &sleep)?;
    docker.run("alone", "none", &sleep)?;
    docker.run("proxy", "host", &sleep)?;
    let host = Host::new(CgroupWorld::V2)?;
    let socket = host.directory().join("rootless.sock");
    speak_for(docker.engine.socket_outside(), &socket)?;
    let address = format!("--docker.host=unix://{}", socket.display());

    let said = Said::by(host.command(binary("dtm")?).arg("check").arg(&address))?;
    assert_eq!(said.code, Some(1), "{}", said.text);
    assert_eq!(
        said.about("users"),
        ["missing the engine is rootless"],
        "{}",
        said.text
    );
    for (container, expected) in [
        ("web", "missing front bridge not counted: rootless_engine"),
        ("alone", "ok none null nothing to count"),
        ("proxy", "ok host host cgroup"),
    ] {
        assert_eq!(said.about(container), [expected], "{}", said.text);
    }

    let dtm = Dtm::start(&host, &[&address])?;
    let samples = eventually(PATIENCE, "the container is listed", || {
        let samples = dtm.samples()?;
        let reason = [("name", "web"), ("reason", "rootless_engine")];
        Ok(samples
            .find("dtm_container_uncovered", &reason)?
            .map(|_one| samples))
    })?;
    assert_eq!(
        samples.sum("dtm_container_uncovered", &[]),
        1,
        "only what is hidden"
    );
    let bytes = "dtm_container_network_receive_bytes_total";
    assert_eq!(
        samples.find(bytes, &[("name", "web")])?,
        None,
        "listed, never zero"
    );
    let log = dtm.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("this engine is rootless"));
    assert_eq!(warnings.count(), 1, "{log}");
    dtm.stop()
}
