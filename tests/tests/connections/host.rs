//! Containers on the host's network: their sockets are known by their control group.

use anyhow::Result;
use dtm_tests::{
    far::{Far, UDP, Version, traffic, wait_listening},
    scene::{PATIENCE, Scene},
    tcp::{Shown, shown},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

const TIMES: u64 = 10;
const PORT: u16 = 5001;

fn wait(scene: &Scene, name: &str, what: &str, is_so: impl Fn(&Shown) -> bool) -> Result<Shown> {
    eventually(PATIENCE, what, || {
        let now = scene.samples().and_then(|samples| shown(&samples, name));
        Ok(now.ok().filter(|shown| is_so(shown)))
    })
}

fn sockets_on_the_hosts_network_are_their_containers(kind: EngineKind) -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    scene.start_dtm(&[])?;
    let far = Far::new(scene.host(), 1)?;
    scene.run("one", "host", &["traffic", "tcp-echo", &PORT.to_string()])?;
    scene.run("two", "host", &["sleep", "3600"])?;
    let host = scene.host().network()?;
    wait_listening(&host, PORT)?;
    for name in ["one", "two"] {
        wait(&scene, name, "it is there", |shown| shown.connections == Some(0))?;
    }
    // One serves somebody outside, the host itself, and the other.
    let near = |version: Version| version.port(&far.near(version), PORT);
    for version in Version::ALL {
        for _ in 0..TIMES {
            far.traffic(&["tcp-ping", &near(version), "2", "100"])?;
        }
    }
    let one = wait(&scene, "one", "it has served", |shown| shown.server == 2 * TIMES)?;
    assert_eq!((one.client, one.all_failed()), (0, 0), "{one:?}");
    assert_eq!(
        scene.samples().and_then(|samples| shown(&samples, "two"))?.server,
        0
    );
    let program = traffic()?;
    scene
        .host()
        .run(&program, ["tcp-ping", "127.0.0.1:5001", "2", "100"])?;
    wait(&scene, "one", "the host's own", |shown| {
        shown.server == 2 * TIMES + 1
    })?;
    // The other asks.
    for _ in 0..TIMES {
        scene.exec("two", &["traffic", "tcp-ping", "127.0.0.1:5001", "2", "100"])?;
    }
    let two = wait(&scene, "two", "it has asked", |shown| shown.client == TIMES)?;
    assert_eq!((two.server, two.all_failed()), (0, 0), "{two:?}");
    // Nobody listens outside: the other side's kernel says so.
    let closed = far.port(Version::V4, UDP);
    scene.exec("two", &["traffic", "tcp-refused", &closed, &TIMES.to_string()])?;
    let two = wait(&scene, "two", "it is refused", |shown| {
        shown.all_failed() == TIMES
    })?;
    assert_eq!(two.failed["refused"], TIMES);
    assert_eq!(two.resets.0, TIMES, "each refusal is a reset: {two:?}");
    // Listeners are counted for the whole host, and nobody's.
    let listeners = scene.samples()?;
    let mut all = listeners.all("dtm_container_tcp_listen_drops_total", &[]);
    assert!(all.next().is_none());
    Ok(())
}

#[test]
fn sockets_on_the_hosts_network_are_their_containers_on_the_old_engine() -> Result<()> {
    sockets_on_the_hosts_network_are_their_containers(EngineKind::Old)
}

#[test]
fn sockets_on_the_hosts_network_are_their_containers_on_the_current_engine() -> Result<()> {
    sockets_on_the_hosts_network_are_their_containers(EngineKind::Current)
}
