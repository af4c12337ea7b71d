//! For how long nobody watched.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dtm_tests::{daemon::Dtm, scene::PATIENCE};
use xtask::host::{CgroupWorld, Host, eventually};

/// How long nobody watches, each time.
const AWAY: Duration = Duration::from_millis(1500);

/// When dtm was last there is known to the second.
const INACCURACY: Duration = Duration::from_secs(2);

/// How it goes, each time.
const ENDS: [fn(Dtm) -> Result<()>; 3] = [Dtm::kill, Dtm::stop, Dtm::kill];

fn unwatched(dtm: &Dtm) -> Result<f64> {
    let samples = dtm.samples()?;
    let found: Vec<_> = samples.all("dtm_unwatched_seconds_total", &[]).collect();
    ensure!(found.len() == 1, "{found:?}");
    Ok(found[0].value)
}

#[test]
fn the_time_without_a_dtm_is_counted_over_restarts() -> Result<()> {
    let host = Host::new(CgroupWorld::V2)?;
    let mut dtm = Dtm::start(&host, &[])?;
    let mut before = unwatched(&dtm)?;
    for end in ENDS {
        let last_there = Instant::now();
        end(dtm)?;
        let gone = Instant::now();
        eventually(PATIENCE, "the time passes", || {
            Ok((gone.elapsed() >= AWAY).then_some(()))
        })?;
        let least = gone.elapsed().as_secs_f64();
        dtm = Dtm::start(&host, &[])?;
        let most = (last_there.elapsed() + INACCURACY).as_secs_f64();
        let now = unwatched(&dtm)?;
        let grown = now - before;
        ensure!(
            (least..=most).contains(&grown),
            "{grown} s were counted of at least {least} s and at most {most} s"
        );
        before = now;
    }
    dtm.stop()
}
