//! What it takes to go on where a killed dtm has left off, beside a start that finds nothing; and how much is left.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use dtm_tests::{
    daemon::{Dtm, binary, get},
    scene::{Moved, SILENT, Scene, growth},
};
use xtask::host::{EngineKind, EngineOptions, Running, eventually};

use crate::{pause, percentile};

/// Containers that are there, of which one sends all the time and another receives.
const CONTAINERS: usize = 100;
const KILLS: usize = 50;
/// Containers for the size, and how many of them one bridge has.
const MANY: usize = 1_000;
const PORTS: usize = 500;
const PATIENCE: Duration = Duration::from_mins(2);
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10048);
const SERIES: &str = "dtm_container_network_receive_bytes_total";

pub(crate) fn run() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::newest()?))?;
    scene.make_silent_network()?;
    scene.start_dtm(&[])?;
    scene.run("receiver", SILENT, &["traffic", "udp-receive", "9"])?;
    scene.run("sender", SILENT, &["sleep", "infinity"])?;
    for number in 2..CONTAINERS {
        scene.run(&format!("idle{number}"), SILENT, &["sleep", "infinity"])?;
    }
    wait_named(&scene, CONTAINERS)?;
    println!("\nms from exec to ready, {CONTAINERS} containers ({KILLS} starts each): p50 / p99");
    let mut anew = starts(&mut scene, &["--no-pin"])?;
    let (half, most) = (percentile(&mut anew, 50), percentile(&mut anew, 99));
    println!("  a start that finds nothing (--no-pin): {half:.0} / {most:.0}");
    scene.start_dtm(&[])?;
    let lost = lost_in_kills(&mut scene)?;
    println!("  {lost}");
    size(&mut scene)
}

/// Starts and kills it again and again, and gives how long each start took.
fn starts(scene: &mut Scene, arguments: &[&str]) -> Result<Vec<f64>> {
    if scene.dtm().is_ok() {
        scene.stop_dtm()?;
        scene.host().run(dtm()?.as_str(), ["detach"])?;
    }
    let mut milliseconds = Vec::with_capacity(KILLS);
    for _start in 0..KILLS {
        let (mut process, took) = timed_start(scene, arguments)?;
        milliseconds.push(took);
        process.kill()?;
    }
    scene.host().run(dtm()?.as_str(), ["detach"])?;
    Ok(milliseconds)
}

fn dtm() -> Result<String> {
    let path = binary("dtm")?;
    Ok(path.to_str().context("a path that is UTF-8")?.to_owned())
}

fn timed_start(scene: &Scene, arguments: &[&str]) -> Result<(Running, f64)> {
    let network = scene.host().network()?;
    let start = Instant::now();
    let process = scene.host().spawn(dtm()?, arguments)?;
    loop {
        if get(&network, ADDRESS, "/-/ready", &[]).is_ok_and(|response| response.status == 200) {
            return Ok((process, start.elapsed().as_secs_f64() * 1e3));
        }
        pause(Duration::from_millis(1));
    }
}

/// Kills it under load; what the kernel has counted more than dtm is lost.
fn lost_in_kills(scene: &mut Scene) -> Result<String> {
    let endpoints = [
        scene.endpoint("sender", SILENT)?,
        scene.endpoint("receiver", SILENT)?,
    ];
    let to = format!("{}:9", scene.address("receiver", SILENT, false)?);
    // More than all kills take; it ends with its container.
    let load = ["traffic", "udp-send", &to, "100000000", "400"];
    let before = both(scene, &endpoints)?;
    scene
        .engine
        .docker(["exec", "--detach", "sender"].iter().chain(&load))?;
    scene.kill_dtm()?;
    let mut milliseconds = Vec::with_capacity(KILLS);
    for _kill in 0..KILLS {
        let (mut process, took) = timed_start(scene, &[])?;
        milliseconds.push(took);
        process.kill()?;
    }
    scene.start_dtm(&[])?;
    scene.exec("sender", &["killall", "traffic"])?;
    let after = both(scene, &endpoints)?;
    let mut lost = 0_u64;
    let mut moved = 0;
    for ((kernel, counted), (kernel_before, counted_before)) in after.iter().zip(&before) {
        let (kernel, counted) = (growth(*kernel_before, *kernel), growth(*counted_before, *counted));
        lost += kernel.0.abs_diff(counted.0) + kernel.1.abs_diff(counted.1);
        moved += kernel.0 + kernel.1;
    }
    let (half, most) = (
        percentile(&mut milliseconds, 50),
        percentile(&mut milliseconds, 99),
    );
    Ok(format!(
        "taking over from one that was killed: {half:.0} / {most:.0}; of {} MB moved over the {KILLS} kills {lost} bytes \
         were lost",
        moved / 1_000_000
    ))
}

fn both(scene: &Scene, endpoints: &[dtm_tests::scene::Endpoint; 2]) -> Result<Vec<(Moved, Moved)>> {
    endpoints.iter().map(|endpoint| scene.both(endpoint)).collect()
}

/// How much is left for the next one, at many containers.
fn size(scene: &mut Scene) -> Result<()> {
    println!("\nwhat is left for the next dtm: journal, memory of all maps, pins");
    report(scene, CONTAINERS)?;
    let networks = ["many0", "many1"];
    for network in networks {
        scene.engine.docker(["network", "create", network])?;
    }
    for number in CONTAINERS..MANY {
        let network = networks[number / PORTS];
        scene.run(&format!("many{number}"), network, &["sleep", "infinity"])?;
    }
    wait_named(scene, MANY)?;
    report(scene, MANY)
}

fn report(scene: &Scene, containers: usize) -> Result<()> {
    let journal = scene.samples()?.get("dtm_journal_bytes", &[])?;
    let maps = map_bytes(scene.dtm()?)?;
    let pins = scene
        .host()
        .run("find", ["/sys/fs/bpf/dtm", "-type", "f"])?
        .lines()
        .count();
    println!(
        "  {containers} containers: {:.0} kB, {:.1} MB, {pins}",
        journal as f64 / 1e3,
        maps as f64 / 1e6
    );
    Ok(())
}

/// The kernel's own account of the memory of a process's maps.
fn map_bytes(dtm: &Dtm) -> Result<u64> {
    let (mut seen, mut sum) = (HashSet::new(), 0);
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", dtm.id()))? {
        let Ok(info) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let number = |name: &str| -> Option<u64> {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:"))
            && seen.insert(id)
        {
            sum += bytes;
        }
    }
    Ok(sum)
}

fn wait_named(scene: &Scene, count: usize) -> Result<()> {
    eventually(PATIENCE, "all containers are named", || {
        Ok((scene.samples()?.all(SERIES, &[]).count() == count).then_some(()))
    })
}
