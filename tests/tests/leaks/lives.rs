//! Two hundred containers that come and go.

use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::host::EngineKind;

use crate::{
    churn::Churn,
    holdings::{Holdings, threads_end},
    process::Process,
    watched,
};

/// Rounds of lives; everything is back after each.
const ROUNDS: usize = 4;
const LIVES: usize = 50;

/// What dtm may spend in a second in which nothing happens: a thousandth of a processor.
const IDLE: Duration = Duration::from_millis(1);

/// By how much, in kB, dtm's own memory may differ after the last round from that after the first. What it has allocated is
/// the same then, but not on the same pages: in eight rounds they were up to 26 pages more or less. A leak of one kilobyte
/// for each life is more than this; a forgotten container takes about two.
const GROWTH: u64 = 128;

/// What dtm is like when nothing happens.
struct Rest {
    /// Processor time of a second.
    cost: Duration,
    /// Its own memory in kB.
    memory: u64,
}

impl Rest {
    fn of(dtm: Process) -> Result<Self> {
        threads_end(dtm)?;
        // By the end of this the last containers are forgotten, and their memory is given back.
        let cost = dtm.idle_cost()?;
        let memory = dtm.anonymous_memory()?;
        Ok(Self { cost, memory })
    }
}

fn nothing_is_left_of_two_hundred_lives(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let scene = watched::scene(kind, attach_mode)?;
    let dtm = Process(scene.dtm()?.id());
    let before = Holdings::at_rest(&scene)?;
    let churn = Churn::new(&scene)?;
    let round = || {
        churn.run(LIVES)?;
        before.are_all_again(&scene)
    };
    // What is made once, such as the room that the first lives need, is there after the first round.
    round()?;
    let first = Rest::of(dtm)?;
    for _round in 1..ROUNDS {
        round()?;
    }
    let last = Rest::of(dtm)?;
    ensure!(
        last.cost <= first.cost * 2 + IDLE,
        "a second costs {:?}, it was {:?}",
        last.cost,
        first.cost
    );
    ensure!(
        last.memory <= first.memory + GROWTH,
        "{} kB, it was {} kB",
        last.memory,
        first.memory
    );
    watched::stop_dtm(scene)
}

#[test]
fn nothing_is_left_of_two_hundred_lives_on_the_old_engine_with_clsact() -> Result<()> {
    nothing_is_left_of_two_hundred_lives(EngineKind::Old, "clsact")
}

#[test]
fn nothing_is_left_of_two_hundred_lives_on_the_current_engine_with_tcx() -> Result<()> {
    nothing_is_left_of_two_hundred_lives(EngineKind::Current, "tcx")
}
