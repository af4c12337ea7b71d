//! The hermetic Docker hosts themselves, on every engine of this machine. Needs root.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use xtask::host::{CgroupWorld, Engine, EngineKind, EngineOptions, Host, Image, Running, eventually};

const IMAGE: &str = "dtm-test";
const PATIENCE: Duration = Duration::from_secs(20);

fn start(kind: EngineKind, world: CgroupWorld) -> Result<Engine> {
    let mut options = EngineOptions::new(kind);
    options.live_restore = true;
    let engine = Engine::start(Host::new(world)?, options)?;
    Image::busybox()?.import(&engine, IMAGE)?;
    Ok(engine)
}

fn docker(engine: &Engine, arguments: &str) -> Result<String> {
    engine.docker(arguments.split_whitespace())
}

/// Everything on this machine whose name begins like the host's, and what runs in its groups.
fn traces(name: &str) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let named = mounts.lines().filter(|line| line.contains(name));
    let mut traces: Vec<String> = named.map(str::to_owned).collect();
    let hierarchies = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let mut places: Vec<&str> = hierarchies.filter_map(|line| line.split(' ').nth(4)).collect();
    let temporary = std::env::temp_dir();
    places.push(temporary.to_str().context("a directory with an odd name")?);
    for place in places {
        let paths = fs::read_dir(place)?
            .flatten()
            .map(|entry| entry.path().display().to_string());
        traces.extend(paths.filter(|path| path.contains(name)));
    }
    for process in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        // A zombie has ended; init reaps it in its own time.
        let runs = stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'));
        if runs && read("cgroup").contains(name) {
            traces.push(stat);
        }
    }
    Ok(traces)
}

fn containers_talk(engine: &Engine) -> Result<()> {
    docker(engine, "network create front")?;
    docker(engine, "network create --ipv6 --subnet fd00:d7:1::/64 back")?;
    for (name, network) in [("alpha", "front"), ("beta", "front"), ("gamma", "back")] {
        docker(
            engine,
            &format!("run -d --name {name} --network {network} {IMAGE} sleep 600"),
        )?;
    }
    docker(engine, "network connect back alpha")?;
    docker(engine, "exec alpha ping -c 3 -i 0.1 beta")?;
    docker(engine, "exec alpha ping -6 -c 3 -i 0.1 gamma")?;

    let link = engine.container_link("beta", "front")?;
    let before = engine.host().link_statistics(link.peer)?;
    docker(engine, "exec alpha ping -c 5 -i 0.1 -s 1000 beta")?;
    let after = engine.host().link_statistics(link.peer)?;
    let echoed = 5 * (14 + 20 + 8 + 1000);
    ensure!(after.tx_bytes - before.tx_bytes >= echoed, "{before:?} {after:?}");
    ensure!(after.rx_bytes - before.rx_bytes >= echoed, "{before:?} {after:?}");
    Ok(())
}

fn containers_outlive_the_engine(engine: &mut Engine) -> Result<()> {
    engine.stop()?;
    ensure!(docker(engine, "ps").is_err(), "a stopped engine answered");
    engine.start_again()?;
    docker(engine, "exec alpha ping -c 1 beta")?;
    engine.kill()?;
    engine.start_again()?;
    docker(engine, "exec beta ping -c 1 alpha").map(drop)
}

fn a_privileged_container_sees_the_host(engine: &Engine) -> Result<()> {
    let privileged = engine.privileged().join(" ");
    let said = docker(
        engine,
        &format!(
            "run --rm {privileged} --cgroupns host --pid host --network host \
             -v /var/run/docker.sock:/var/run/docker.sock:ro \
             -v /var/run/docker/netns:/var/run/docker/netns:rslave -v /sys/fs/bpf:/sys/fs/bpf \
             {IMAGE} grep CapEff /proc/self/status"
        ),
    )?;
    let effective = u64::from_str_radix(said.trim_start_matches("CapEff:").trim(), 16)?;
    let sys_admin = 1 << 21;
    ensure!(effective & sys_admin != 0, "{said}");
    Ok(())
}

fn the_network_can_be_entered(host: &Host) -> Result<()> {
    let network = host.network()?;
    network.enter(|| UdpSocket::bind("127.0.0.1:10048"))??;
    let _server = host.spawn("busybox", ["nc", "-l", "-p", "10049"])?;
    let address = ([127, 0, 0, 1], 10049).into();
    eventually(PATIENCE, "a listener", || Ok(network.connect(address).ok())).map(drop)
}

fn works_and_leaves_nothing(kind: EngineKind, world: CgroupWorld) -> Result<()> {
    let mut engine = start(kind, world)?;
    let name = engine.host().name();
    containers_talk(&engine)?;
    containers_outlive_the_engine(&mut engine)?;
    a_privileged_container_sees_the_host(&engine)?;
    the_network_can_be_entered(engine.host())?;
    engine.close()?;
    assert_eq!(traces(&name)?, [""; 0]);
    Ok(())
}

#[test]
fn the_old_engine_works_and_leaves_nothing() -> Result<()> {
    works_and_leaves_nothing(EngineKind::Old, CgroupWorld::V2)
}

#[test]
fn the_current_engine_works_and_leaves_nothing() -> Result<()> {
    works_and_leaves_nothing(EngineKind::Current, CgroupWorld::V2)
}

/// What Podman keeps it keeps in the host: of the machine's own groups none is touched.
#[test]
fn podman_works_and_leaves_nothing() -> Result<()> {
    let mut engine = start(EngineKind::Podman, CgroupWorld::V2)?;
    let name = engine.host().name();
    containers_talk(&engine)?;
    containers_outlive_the_engine(&mut engine)?;
    the_network_can_be_entered(engine.host())?;
    let machines = engine.host().cgroup().with_file_name("libpod_parent");
    ensure!(!machines.exists(), "{} was made", machines.display());
    engine.close()?;
    assert_eq!(traces(&name)?, [""; 0]);
    Ok(())
}

#[test]
fn a_hybrid_of_cgroup_versions_works_where_the_machine_has_one() -> Result<()> {
    if !fs::read_to_string("/proc/self/mountinfo")?.contains(" - cgroup cgroup ") {
        assert!(Host::new(CgroupWorld::Hybrid).is_err());
        return Ok(());
    }
    works_and_leaves_nothing(EngineKind::Old, CgroupWorld::Hybrid)?;
    works_and_leaves_nothing(EngineKind::Current, CgroupWorld::Hybrid)
}

fn a_panic_leaves_nothing_of(kind: EngineKind) -> Result<()> {
    let mut name = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let engine = start(kind, CgroupWorld::V2)?;
        docker(&engine, &format!("run -d --name alpha {IMAGE} sleep 600"))?;
        name = Some(engine.host().name());
        panic!("with an engine running");
    }));
    assert!(panicked.is_err());
    let name = name.context("the panic came too early")?;
    assert_eq!(traces(&name)?, [""; 0]);
    Ok(())
}

#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    a_panic_leaves_nothing_of(EngineKind::Old)?;
    a_panic_leaves_nothing_of(EngineKind::Podman)
}

/// An owner in a process of its own, with an engine up; killed the hard way, with these of its children.
fn killed_owner(with_warden: bool) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    // It never comes to running dtm.
    command
        .args(["demo", "--dtm", "/nonexistent"])
        .stdout(Stdio::piped());
    let mut owner = Running::spawn(&mut command)?;
    let output = owner.child().stdout.take().context("no standard output")?;
    let mut said = BufReader::new(output).lines().map_while(std::result::Result::ok);
    said.find(|line| line.contains("starting containers"))
        .context("the demo did not start")?;
    let id = owner.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    owner.kill()?;
    for child in children.split_whitespace().filter(|_| with_warden) {
        // One of its own commands may have ended by now.
        if let Some(child) = Pid::from_raw(child.parse()?) {
            kill_process(child, Signal::KILL)
                .or_else(|error| if error == Errno::SRCH { Ok(()) } else { Err(error) })?;
        }
    }
    Ok(format!("dtm-{id}-"))
}

#[test]
fn a_killed_owner_leaves_nothing() -> Result<()> {
    let name = killed_owner(false)?;
    eventually(PATIENCE, "the end of a host without an owner", || {
        Ok(traces(&name)?.is_empty().then_some(()))
    })
}

#[test]
fn the_next_host_cleans_up_after_an_owner_and_a_warden() -> Result<()> {
    let name = killed_owner(true)?;
    assert_ne!(traces(&name)?, [""; 0]);
    Host::new(CgroupWorld::V2)?.close()?;
    assert_eq!(traces(&name)?, [""; 0]);
    Ok(())
}
