//! Being asked to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Ctrl-C, a terminal that closes, or kill: from now on they end nothing by themselves.
pub(crate) struct Interrupt {
    arrived: Arc<AtomicBool>,
    woken: Receiver<()>,
}

impl Interrupt {
    pub(crate) fn listen() -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listen for signals")?;
        let arrived = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel();
        let flag = Arc::clone(&arrived);
        std::thread::spawn(move || {
            for _ in signals.forever() {
                flag.store(true, Ordering::Relaxed);
                // Nobody waits any more when the end has begun.
                if wake.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { arrived, woken })
    }

    pub(crate) fn arrived(&self) -> bool {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Waits this long at most; whether it arrived.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        self.arrived() || self.woken.recv_timeout(timeout).is_ok()
    }
}
