//! The container image, started on real engines as the README says: it counts other containers exactly.
//!
//! Needs root, an engine, and the archive that `cargo xtask image --no-load` makes; `cargo xtask test image` makes it.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::{Samples, binary, get},
    readme::run_command,
};
use xtask::host::{CgroupWorld, Engine, EngineKind, EngineOptions, Host, Image, Network, eventually};

/// The image that the other containers run.
const OTHER_IMAGE: &str = "dtm-test";
const NETWORK: &str = "front";
const PATIENCE: Duration = Duration::from_mins(1);
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10048);

/// Two engines at a time would be in each other's way: attaching waits for the whole machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a container received and sent, in bytes and packets.
type Moved = [u64; 4];

#[test]
fn it_counts_another_container_exactly_on_the_current_engine() -> Result<()> {
    counts_another_container_exactly(EngineKind::Current, CgroupWorld::V2)
}

#[test]
fn it_counts_another_container_exactly_on_the_old_engine() -> Result<()> {
    counts_another_container_exactly(EngineKind::Old, CgroupWorld::Hybrid)
}

fn counts_another_container_exactly(kind: EngineKind, world: CgroupWorld) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = Engine::start(Host::new(world)?, EngineOptions::new(kind))?;
    let network = engine.host().network()?;
    load(&engine)?;
    engine.docker(["network", "create", NETWORK])?;
    // One that is there before dtm, and one that is born under its eyes.
    run_other(&engine, "before")?;
    let dtm = engine.docker(run_command(&engine)?)?;
    eventually(PATIENCE, "dtm is ready", || {
        let state = engine.docker(["inspect", "--format", "{{.State.Status}}", &dtm])?;
        ensure!(state == "running", "dtm is {state}: {}", logs(&engine, &dtm)?);
        let ready = get(&network, ADDRESS, "/-/ready", &[]);
        Ok(ready.is_ok_and(|answer| answer.status == 200).then_some(()))
    })
    .with_context(|| logs(&engine, &dtm).unwrap_or_default())?;
    run_other(&engine, "after")?;

    for container in ["before", "after"] {
        let before = both(&engine, &network, container)?;
        exchange(&engine, &network, container)?;
        let after = both(&engine, &network, container)?;
        let growth = |side: fn(&(Moved, Moved)) -> Moved| -> Moved {
            std::array::from_fn(|index| side(&after)[index] - side(&before)[index])
        };
        let (kernel, counted) = (growth(|both| both.0), growth(|both| both.1));
        assert_eq!(counted, kernel, "{container}");
        let [_, received, _, sent] = kernel;
        ensure!(
            received >= 500 && sent >= 1000,
            "not everything was sent: {kernel:?}"
        );
    }
    let samples = scrape(&network)?;
    let features = samples.all("dtm_feature_available", &[]);
    for sample in features.filter(|sample| sample.labels["feature"].starts_with("drop")) {
        assert!(
            sample.value > 0.0,
            "the container lacks what the host has: {sample:?}"
        );
    }
    // It is on the host's network, and counts itself there.
    let own = [("name", "dtm"), ("network", "host"), ("interface", "")];
    samples.get("dtm_container_network_transmit_bytes_total", &own)?;
    assert_eq!(samples.all("dtm_container_uncovered", &[]).count(), 0);

    engine.docker(["stop", "--time", "10", &dtm])?;
    let code = engine.docker(["inspect", "--format", "{{.State.ExitCode}}", &dtm])?;
    assert_eq!(code, "0", "{}", logs(&engine, &dtm)?);
    // What it has attached goes on for the next one, until it is taken off.
    assert!(has_filters(&engine)?, "nothing is attached after a stop");
    let mut words = run_command(&engine)?;
    let options = words
        .iter()
        .position(|word| word == "-d")
        .context("it runs detached")?;
    words.splice(options..=options, ["--rm".to_owned()]);
    let restart = words
        .iter()
        .position(|word| word == "--restart")
        .context("it is restarted")?;
    words.drain(restart..=restart + 1);
    let name = words
        .iter()
        .position(|word| word == "--name")
        .context("it has a name")?;
    words.drain(name..=name + 1);
    engine.docker(words.iter().map(String::as_str).chain(["detach"]))?;
    assert!(!has_filters(&engine)?, "something is left after dtm detach");
    engine.close()
}

/// Whether dtm has filters at an interface of the host's.
fn has_filters(engine: &Engine) -> Result<bool> {
    for link in engine.host().links()? {
        for side in ["ingress", "egress"] {
            let filters = engine
                .host()
                .run("tc", ["filter", "show", "dev", &link.name, side])?;
            if filters.contains("dtm_") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Gives the engine dtm's image, and a busybox with the tests' own `traffic`.
fn load(engine: &Engine) -> Result<()> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let archive: PathBuf = target.context("no target directory")?.join("image/dtm-image.tar");
    ensure!(
        archive.is_file(),
        "there is no {}: make it first, with `cargo xtask image --no-load`",
        archive.display()
    );
    let archive = archive.to_str().context("a path that is UTF-8")?;
    engine.docker(["load", "--quiet", "--input", archive])?;
    let traffic = binary("traffic")?;
    let traffic = traffic.to_str().context("a path that is UTF-8")?;
    Image::busybox()?
        .with_program(traffic)?
        .import(engine, OTHER_IMAGE)
        .map(drop)
}

fn run_other(engine: &Engine, name: &str) -> Result<()> {
    let run = [
        "run",
        "--detach",
        "--name",
        name,
        "--network",
        NETWORK,
        OTHER_IMAGE,
    ];
    engine.docker(run.iter().chain(&["sleep", "infinity"])).map(drop)
}

/// 1,000 datagrams from the container to its gateway, 500 back.
fn exchange(engine: &Engine, network: &Network, container: &str) -> Result<()> {
    let address = |field: &str| {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{NETWORK}\").{field}}}}}");
        engine.docker(["inspect", "--format", &format, container])
    };
    let (own, gateway) = (address("IPAddress")?, address("Gateway")?);
    let socket = network.enter(|| UdpSocket::bind("0.0.0.0:9"))?;
    let socket = socket.context("listen in the host")?;
    let to = format!("{gateway}:9");
    engine.docker(["exec", container, "traffic", "udp-send", &to, "1000", "400"])?;
    for _datagram in 0..500 {
        socket
            .send_to(&[b'u'; 300], format!("{own}:9"))
            .context("send a datagram")?;
    }
    Ok(())
}

/// Of one moment: what the kernel says the container moved, and what dtm says.
fn both(engine: &Engine, network: &Network, container: &str) -> Result<(Moved, Moved)> {
    let link = engine.container_link(container, NETWORK)?;
    let kernel = || -> Result<Moved> {
        // What the host end sends, the container receives.
        let statistics = engine.host().link_statistics(link.peer)?;
        Ok([
            statistics.tx_bytes,
            statistics.tx_packets,
            statistics.rx_bytes,
            statistics.rx_packets,
        ])
    };
    let labels = [
        ("name", container),
        ("network", NETWORK),
        ("interface", &link.name),
    ];
    eventually(PATIENCE, "the container is named and its traffic pauses", || {
        let before = kernel()?;
        let samples = scrape(network)?;
        let mut counted = [0; 4];
        let counters = [
            "receive_bytes",
            "receive_packets",
            "transmit_bytes",
            "transmit_packets",
        ];
        for (value, counter) in counted.iter_mut().zip(counters) {
            let name = format!("dtm_container_network_{counter}_total");
            let Some(found) = samples.find(&name, &labels)? else {
                return Ok(None);
            };
            *value = found;
        }
        Ok((kernel()? == before).then_some((before, counted)))
    })
}

fn scrape(network: &Network) -> Result<Samples> {
    let response = get(network, ADDRESS, "/metrics", &[])?;
    ensure!(
        response.status == 200,
        "a scrape was answered with {}",
        response.status
    );
    Samples::parse(response.text()?)
}

fn logs(engine: &Engine, container: &str) -> Result<String> {
    // Its log is on standard error, which the client keeps apart.
    let mut command = engine.docker_command(["logs", container]);
    let output = command.output().context("run docker logs")?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}
