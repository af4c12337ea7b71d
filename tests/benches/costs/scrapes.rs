//! What a scrape costs, with real containers on a real engine.

use anyhow::{Context as _, Result};
use dtm_tests::daemon::Dtm;
use xtask::host::{CgroupWorld, Engine, EngineKind, EngineOptions, Host, Image, eventually};

/// Containers on one network.
const CONTAINERS: usize = 20;
const SCRAPES: u32 = 500;
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);
const SERIES: &str = "dtm_container_network_receive_bytes_total";

pub(crate) fn run() -> Result<()> {
    let engine = Engine::start(
        Host::new(CgroupWorld::V2)?,
        EngineOptions::new(EngineKind::newest()?),
    )?;
    Image::busybox()?.import(&engine, "bench")?;
    let dtm = Dtm::start(engine.host(), &[])?;
    let (idle_rss, idle_cpu) = (resident_kilobytes(&dtm)?, cpu_milliseconds(&dtm)?);
    for number in 0..CONTAINERS {
        engine.docker([
            "run",
            "--detach",
            "--name",
            &format!("bench{number}"),
            "bench",
            "sleep",
            "3600",
        ])?;
    }
    eventually(PATIENCE, "all are named", || {
        Ok((dtm.samples()?.all(SERIES, &[]).count() == CONTAINERS).then_some(()))
    })?;
    let before = cpu_milliseconds(&dtm)?;
    for _ in 0..SCRAPES {
        dtm.metrics(&[])?;
    }
    let scrape = (cpu_milliseconds(&dtm)? - before) / f64::from(SCRAPES);
    let size = dtm.metrics(&[])?.body.len();
    println!("\nthe daemon, {CONTAINERS} containers on one network");
    println!("  CPU per scrape: {scrape:.2} ms (mean of {SCRAPES}; {size} bytes)");
    println!("  CPU until ready: {idle_cpu:.0} ms");
    println!(
        "  resident: {idle_rss} kB without containers, {} kB after",
        resident_kilobytes(&dtm)?
    );
    dtm.stop()?;
    engine.close()
}

fn resident_kilobytes(dtm: &Dtm) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", dtm.id()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// User and system time of all its threads, by the scheduler's own clock.
fn cpu_milliseconds(dtm: &Dtm) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir(format!("/proc/{}/task", dtm.id()))? {
        let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += schedstat.split(' ').next().context("schedstat")?.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e6)
}
