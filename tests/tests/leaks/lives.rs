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

/// By how much, in bytes, what dtm has allocated may differ after the last round from that after the first. Over eight rounds
/// it stayed within 10 kB. A leak of 220 bytes for each life is more than this; a forgotten container takes about two thousand.
const ALLOCATED: u64 = 32 * 1024;

/// By how much, in kB, its memory outside of the heap may differ: the stacks of threads, by how deep they once were.
const OUTSIDE: u64 = 64;

/// What dtm is like when nothing happens.
struct Rest {
    /// Processor time of a second.
    cost: Duration,
    /// What it has allocated, in bytes.
    allocated: u64,
    /// Its own memory outside of the heap, in kB.
    outside: u64,
}

impl Rest {
    fn of(dtm: Process) -> Result<Self> {
        threads_end(dtm)?;
        // By the end of this the last containers are forgotten, and their memory is given back.
        let cost = dtm.idle_cost()?;
        let (allocated, outside) = (dtm.allocated()?, dtm.memory_outside()?);
        Ok(Self {
            cost,
            allocated,
            outside,
        })
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
        last.allocated <= first.allocated + ALLOCATED,
        "{} bytes are allocated, there were {}",
        last.allocated,
        first.allocated
    );
    ensure!(
        last.outside <= first.outside + OUTSIDE,
        "{} kB outside of the heap, there were {}",
        last.outside,
        first.outside
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
