//! Waiting for a condition of another process, which nothing announces.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const STEP: Duration = Duration::from_millis(20);

/// Asks `condition` until it answers with a value.
///
/// # Errors
///
/// The first error of `condition`, or that `timeout` has passed without `what`.
pub fn eventually<T>(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() >= timeout {
            bail!("{what}: not within {timeout:?}");
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "other processes' state changes without a wake-up; this is the one place that polls it"
        )]
        std::thread::sleep(STEP);
    }
}
