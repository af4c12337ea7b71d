//! What many interfaces cost: taking them in at the start, each scrape, memory and idling; beside the netdev collector
//! of `node_exporter` over the same links.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    crowd::{Crowd, PORTS},
    daemon::{Dtm, get},
};
use xtask::host::{
    CgroupWorld, Engine, EngineKind, EngineOptions, Host, Image, Running, eventually, go_programs,
};

use crate::{
    pause, percentile,
    process::{cpu, resident_megabytes},
    rtnl, spread,
};

/// Interfaces at each step.
const SIZES: [usize; 4] = [10, 100, 1_000, 4_000];
/// Measurements of each figure.
const ROUNDS: usize = 7;
/// Scrapes of one measurement, fewer where they are long.
const SCRAPES: usize = 20;
const MANY_SCRAPES: usize = 5;
/// Starts over the interfaces that exist.
const STARTS: usize = 5;
const BULK: usize = 1_000;
/// Long enough for two of dtm's comparisons with what is there.
const IDLE: Duration = Duration::from_secs(61);
const PATIENCE: Duration = Duration::from_mins(1);
const IMAGE: &str = "bench";
const SERIES: &str = "dtm_container_network_receive_bytes_total";
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);
/// As Prometheus asks.
const OPENMETRICS: (&str, &str) = ("Accept", "application/openmetrics-text;version=1.0.0");
const GZIP: (&str, &str) = ("Accept-Encoding", "gzip");

pub(crate) fn run() -> Result<()> {
    let engine = Engine::start(
        Host::new(CgroupWorld::V2)?,
        EngineOptions::new(EngineKind::newest()?),
    )?;
    Image::busybox()?.import(&engine, IMAGE)?;
    let host = engine.host();
    let peer = node_exporter(host)?;
    let dtm = Dtm::start(host, &[])?;
    println!("\nthe daemon without containers");
    println!("  resident: {:.1} MB", resident_megabytes(dtm.id())?);
    dtm.stop()?;
    println!(
        "\nms of CPU per scrape, dtm beside node_exporter's netdev over the same links: min / median / max of {ROUNDS} \
         rounds"
    );
    let mut crowds: Vec<Crowd> = Vec::new();
    for size in SIZES {
        // Each crowd on a network of its own, no more than a bridge takes.
        while let Some(next) = next(crowds.last().map_or(0, |crowd| crowd.numbers.end), size) {
            let name = format!("crowd{}", crowds.len());
            crowds.push(Crowd::new(&engine, IMAGE, &name, next)?);
        }
        let dtm = Dtm::start(host, &[])?;
        wait_named(&dtm, size)?;
        for crowd in &crowds {
            // Counts of every length, as they are on a host.
            for number in crowd.numbers.clone() {
                crowd.send(host, number, 1 + number % 50, 60 + number % 1_000)?;
            }
        }
        beside(&dtm, &peer, host, size)?;
        println!("    resident: {:.1} MB", resident_megabytes(dtm.id())?);
        if size == BULK {
            let before = cpu(dtm.id())?;
            pause(IDLE);
            let idle = (cpu(dtm.id())? - before) / IDLE.as_millis() as f64;
            println!(
                "    idle: {:.3} % of a core over {} s",
                idle * 100.0,
                IDLE.as_secs()
            );
        }
        dtm.stop()?;
        if size == BULK {
            starts(host)?;
        }
    }
    drop(peer);
    engine.close()
}

/// The next crowd on the way from `have` interfaces to `want`.
fn next(have: usize, want: usize) -> Option<std::ops::Range<usize>> {
    (have < want).then(|| have..want.min(have + PORTS))
}

fn wait_named(dtm: &Dtm, size: usize) -> Result<()> {
    // The containers' own interfaces come on top.
    eventually(PATIENCE, "all are named", || {
        Ok((dtm.samples()?.all(SERIES, &[]).count() >= size).then_some(()))
    })
}

/// CPU per scrape of both, measured in turns.
fn beside(dtm: &Dtm, peer: &Running, host: &Host, size: usize) -> Result<()> {
    let network = host.network()?;
    let scrapes = if size > BULK { MANY_SCRAPES } else { SCRAPES };
    let mean = |id: u32, scrape: &dyn Fn() -> Result<usize>| -> Result<(f64, usize)> {
        let mut bytes = 0;
        let before = cpu(id)?;
        for _ in 0..scrapes {
            bytes = scrape()?;
        }
        let spent = cpu(id)? - before;
        Ok((spent / scrapes as f64, bytes))
    };
    let ask = |address, headers: &[(&str, &str)]| -> Result<usize> {
        let answer = get(&network, address, "/metrics", headers)?;
        ensure!(
            answer.status == 200,
            "a scrape was answered with {}",
            answer.status
        );
        Ok(answer.body.len())
    };
    let headers: [&[_]; 2] = [&[OPENMETRICS], &[OPENMETRICS, GZIP]];
    let names = ["plain", "gzip"];
    let mut ours = [Vec::new(), Vec::new()];
    let mut theirs = [Vec::new(), Vec::new()];
    let mut ratios = [Vec::new(), Vec::new()];
    let mut sizes = [(0, 0); 2];
    for _ in 0..ROUNDS {
        for (kind, headers) in headers.iter().enumerate() {
            let (own, own_size) = mean(dtm.id(), &|| ask(dtm.address(), headers))?;
            let (other, other_size) = mean(peer.id(), &|| ask(PEER, headers))?;
            ours[kind].push(own);
            theirs[kind].push(other);
            ratios[kind].push(other / own);
            sizes[kind] = (own_size, other_size);
        }
    }
    println!("  {size} interfaces, {scrapes} scrapes a round");
    for kind in 0..2 {
        println!(
            "    {}: dtm {}, node_exporter {}, ratio {} ({} and {} bytes)",
            names[kind],
            spread(&mut ours[kind]),
            spread(&mut theirs[kind]),
            spread(&mut ratios[kind]),
            sizes[kind].0,
            sizes[kind].1,
        );
    }
    Ok(())
}

/// Time to take in what exists, and how long others wait for RTNL meanwhile.
fn starts(host: &Host) -> Result<()> {
    let network = host.network()?;
    let (mut ready, mut named) = (Vec::new(), Vec::new());
    let mut spent = Vec::new();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let ((), waits) = rtnl::probed(&network, || {
            pause(Duration::from_secs(1));
            Ok(())
        })?;
        without.extend(waits);
        let (dtm, waits) = rtnl::probed(&network, || {
            let start = Instant::now();
            let dtm = Dtm::start(host, &[])?;
            ready.push(start.elapsed().as_secs_f64() * 1e3);
            spent.push(cpu(dtm.id())?);
            wait_named(&dtm, BULK)?;
            named.push(start.elapsed().as_secs_f64() * 1e3);
            Ok(dtm)
        })?;
        with.extend(waits);
        dtm.stop()?;
    }
    println!("\nms to take in {BULK} interfaces that exist: min / median / max of {STARTS} starts");
    println!("  process start to ready: {}", spread(&mut ready));
    println!("  process start to all named: {}", spread(&mut named));
    println!("  CPU until ready: {}", spread(&mut spent));
    for (what, waits) in [("without", &mut without), ("while dtm starts", &mut with)] {
        println!(
            "  RTNL taken by somebody else, {what}: p99 {:.2}, longest {:.2} of {}",
            percentile(waits, 99),
            percentile(waits, 100),
            waits.len()
        );
    }
    Ok(())
}

fn node_exporter(host: &Host) -> Result<Running> {
    let program = go_programs()
        .map(|directory| directory.join("node_exporter"))
        .filter(|program| program.is_file())
        .context("no node_exporter: `cargo xtask setup` installs it")?;
    let arguments = [
        "--collector.disable-defaults",
        "--collector.netdev",
        "--web.listen-address=127.0.0.1:9100",
    ];
    let running = host.spawn(program, arguments)?;
    let network = host.network()?;
    eventually(PATIENCE, "node_exporter answers", || {
        Ok(get(&network, PEER, "/metrics", &[]).ok().map(drop))
    })
    .map_err(|error| running.explain(&error))?;
    Ok(running)
}
