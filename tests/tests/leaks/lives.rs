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

fn nothing_is_left_of_two_hundred_lives(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let scene = watched::scene(kind, attach_mode)?;
    let dtm = Process(scene.dtm()?.id());
    let before = Holdings::at_rest(&scene)?;
    let idle = dtm.idle_cost()?;
    let churn = Churn::new(&scene)?;
    for _round in 0..ROUNDS {
        churn.run(LIVES)?;
        before.are_all_again(&scene)?;
    }
    threads_end(dtm)?;
    let idle_now = dtm.idle_cost()?;
    ensure!(
        idle_now <= idle * 2 + IDLE,
        "a second costs {idle_now:?}, it was {idle:?}"
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
