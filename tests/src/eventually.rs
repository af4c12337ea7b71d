//! Waiting for a condition, never for luck.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(50);

/// Asks `condition` until it answers with something; fails when `what` has not come about after `timeout`.
#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition, in the one place for it"
)]
pub fn eventually<T>(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = condition()? {
            return Ok(answer);
        }
        if begin.elapsed() > timeout {
            bail!("after {} s still not: {what}", timeout.as_secs());
        }
        thread::sleep(PAUSE);
    }
}
