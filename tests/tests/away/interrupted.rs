//! Starts that are stopped halfway, at every point of them.

use std::{os::unix::process::ExitStatusExt as _, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::binary,
    scene::{PATIENCE, Scene},
};
use rustix::process::Signal;
use xtask::host::{EngineKind, EngineOptions, Host};

use crate::load::Load;

/// The points at which starts are stopped.
const STEP: Duration = Duration::from_millis(16);
const POINTS: u32 = 26;

/// In so many rounds, each with points from the first to the last; after a round a start is let through.
const ROUNDS: u32 = 5;

#[expect(
    clippy::disallowed_methods,
    reason = "when the signal comes is what is tested, and nothing waits for it"
)]
fn pause(time: Duration) {
    thread::sleep(time);
}

/// Starts dtm and has it stop after `moment`, whatever it is at by then.
fn start_and_stop(host: &Host, mode: &str, moment: Duration) -> Result<()> {
    let mut process = host.spawn(binary("dtm")?, ["--attach-mode", mode])?;
    pause(moment);
    process.signal(Signal::TERM)?;
    let status = process.wait(PATIENCE)?;
    // What does not listen for signals yet is ended by this one.
    ensure!(
        status.success() || status.signal() == Some(libc::SIGTERM),
        "stopped after {moment:?} it ended with {status}: {}",
        process.log()
    );
    Ok(())
}

/// The first time there is nothing to take over, later there is what the stops before have left.
fn starts_that_are_stopped_are_gone_on_with(kind: EngineKind, mode: &str) -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    scene.make_silent_network()?;
    let load = Load::unwatched(&scene)?;
    let mut first = None;
    for round in 0..ROUNDS {
        for point in (round..POINTS).step_by(ROUNDS as usize) {
            start_and_stop(scene.host(), mode, STEP * point)?;
        }
        scene.start_dtm(&["--attach-mode", mode])?;
        load.wait_named(&scene)?;
        let now = load.moment(&scene)?;
        load.is_not_too_much(&now)?;
        match &first {
            None => first = Some(now),
            Some(first) => load
                .is_exact(first, &now)
                .with_context(|| format!("after round {round}"))?,
        }
        scene.stop_dtm()?;
    }
    Ok(())
}

#[test]
fn starts_that_are_stopped_are_gone_on_with_on_the_old_engine_with_clsact() -> Result<()> {
    starts_that_are_stopped_are_gone_on_with(EngineKind::Old, "clsact")
}

#[test]
fn starts_that_are_stopped_are_gone_on_with_on_the_current_engine_with_tcx() -> Result<()> {
    starts_that_are_stopped_are_gone_on_with(EngineKind::Current, "tcx")
}
