//! The hermetic Docker hosts themselves, on every engine of this machine. Needs root.

use std::fs;
use std::path::Path;
use std::time::Duration;

use xtask::host::{CgroupWorld, Engine, EngineKind, EngineOptions, Host, Image, eventually};

const IMAGE: &str = "dtm-test";
const PATIENCE: Duration = Duration::from_secs(20);

fn engine(kind: EngineKind, world: CgroupWorld) -> Engine {
    let host = Host::new(world).unwrap();
    let engine = Engine::start(
        host,
        EngineOptions {
            live_restore: true,
            ..EngineOptions::new(kind)
        },
    )
    .unwrap();
    Image::busybox().unwrap().import(&engine, IMAGE).unwrap();
    engine
}

fn run_forever(engine: &Engine, name: &str, network: &str) {
    engine
        .docker([
            "run",
            "-d",
            "--init=false",
            "--name",
            name,
            "--network",
            network,
            IMAGE,
            "sleep",
            "600",
        ])
        .unwrap();
}

/// Everything on this machine that carries the host's name or runs in its groups.
fn traces(name: &str, holder: u32) -> Vec<String> {
    let mut traces = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(
        mounts
            .lines()
            .filter(|line| line.contains(name))
            .map(str::to_owned),
    );
    let hierarchies = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let places = hierarchies
        .filter_map(|line| line.split(' ').nth(4))
        .map(str::to_owned);
    let temporary = std::env::temp_dir().to_string_lossy().into_owned();
    for place in places.chain([temporary]) {
        let path = Path::new(&place).join(name);
        if path.exists() {
            traces.push(path.display().to_string());
        }
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        // A zombie has ended; init reaps it in its own time.
        let ended = read("stat").rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        if ended {
            continue;
        }
        if read("cgroup").contains(name) || process.file_name() == holder.to_string().as_str() {
            traces.push(format!("process {:?}: {}", process.file_name(), read("comm")));
        }
    }
    traces
}

fn works_and_leaves_nothing(kind: EngineKind, world: CgroupWorld) {
    let mut engine = engine(kind, world);
    let (name, holder) = (engine.host().name(), engine.host().holder());

    engine.docker(["network", "create", "front"]).unwrap();
    engine
        .docker([
            "network",
            "create",
            "--ipv6",
            "--subnet",
            "fd00:d7:1::/64",
            "back",
        ])
        .unwrap();
    run_forever(&engine, "alpha", "front");
    run_forever(&engine, "beta", "front");
    engine.docker(["network", "connect", "back", "alpha"]).unwrap();
    run_forever(&engine, "gamma", "back");
    engine
        .docker(["exec", "alpha", "ping", "-c", "3", "-i", "0.1", "beta"])
        .unwrap();
    engine
        .docker(["exec", "alpha", "ping", "-6", "-c", "3", "-i", "0.1", "gamma"])
        .unwrap();

    // What the kernel says of a veth's host end agrees with what was sent through it.
    let link = engine.container_link("beta", "front").unwrap();
    let before = engine.host().link_statistics(link.peer).unwrap();
    engine
        .docker([
            "exec", "alpha", "ping", "-c", "5", "-i", "0.1", "-s", "1000", "beta",
        ])
        .unwrap();
    let after = engine.host().link_statistics(link.peer).unwrap();
    assert!(
        after.tx_bytes - before.tx_bytes >= 5 * 1042,
        "{before:?} {after:?}"
    );
    assert!(
        after.rx_bytes - before.rx_bytes >= 5 * 1042,
        "{before:?} {after:?}"
    );

    engine.stop().unwrap();
    assert!(engine.docker(["ps"]).is_err());
    engine.start_again().unwrap();
    engine
        .docker(["exec", "alpha", "ping", "-c", "1", "beta"])
        .unwrap();
    engine.kill().unwrap();
    engine.start_again().unwrap();
    engine
        .docker(["exec", "beta", "ping", "-c", "1", "alpha"])
        .unwrap();

    let mut arguments = vec![
        "run",
        "--rm",
        "--cgroupns",
        "host",
        "--pid",
        "host",
        "--network",
        "host",
    ];
    arguments.extend(engine.privileged());
    arguments.extend(["-v", "/var/run/docker.sock:/var/run/docker.sock:ro"]);
    arguments.extend([
        "-v",
        "/var/run/docker/netns:/var/run/docker/netns:rslave",
        "-v",
        "/sys/fs/bpf:/sys/fs/bpf",
    ]);
    arguments.extend([
        IMAGE,
        "sh",
        "-c",
        "ls /var/run/docker/netns && grep CapEff /proc/self/status",
    ]);
    let said = engine.docker(&arguments).unwrap();
    let effective = said.rsplit_once("CapEff:\t").and_then(|(_, mask)| u64::from_str_radix(mask, 16).ok());
    let sys_admin = 1 << 21;
    assert!(effective.is_some_and(|mask| mask & sys_admin != 0), "{said}");

    let connected = engine
        .host()
        .network()
        .unwrap()
        .enter(|| std::net::UdpSocket::bind("127.0.0.1:10048"));
    connected.unwrap().unwrap();
    let server = engine
        .host()
        .spawn("busybox", ["nc", "-l", "-p", "10049"])
        .unwrap();
    let network = engine.host().network().unwrap();
    eventually(PATIENCE, "a listener", || {
        Ok(network.connect(([127, 0, 0, 1], 10049).into()).ok())
    })
    .unwrap();
    drop(server);

    engine.close().unwrap();
    assert_eq!(traces(&name, holder), [""; 0]);
}

#[test]
fn every_engine_works_in_either_cgroup_world_and_leaves_nothing() {
    for kind in EngineKind::ALL {
        works_and_leaves_nothing(kind, CgroupWorld::V2);
    }
    if Path::new("/sys/fs/cgroup/unified").exists() {
        for kind in EngineKind::ALL {
            works_and_leaves_nothing(kind, CgroupWorld::Hybrid);
        }
    }
}

#[test]
fn a_panic_leaves_nothing() {
    let (name, holder) = std::panic::catch_unwind(|| {
        let engine = engine(EngineKind::Old, CgroupWorld::V2);
        run_forever(&engine, "alpha", "bridge");
        let identity = (engine.host().name(), engine.host().holder());
        std::panic::panic_any(identity);
    })
    .unwrap_err()
    .downcast_ref::<(String, u32)>()
    .cloned()
    .unwrap();
    assert_eq!(traces(&name, holder), [""; 0]);
}
