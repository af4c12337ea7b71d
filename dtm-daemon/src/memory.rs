//! Memory that is free again, given back to the kernel. The allocator keeps it, and uses it anew wherever it finds it
//! first: a host whose containers come and go would see dtm grow towards the most it ever needed.

use std::time::{Duration, Instant};

/// How long between two times: it takes a look at every free piece.
const PAUSE: Duration = Duration::from_secs(5);

/// Makes all threads share one heap. By default each of dtm's few threads has one of its own, which keeps what that
/// thread once needed: 2 MB more with a thousand interfaces.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "an allocator's own call")]
        // SAFETY: no requirements; it only sets a number.
        let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        debug_assert_eq!(done, 1, "mallopt");
    }
}

/// Gives free pages back.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        let start = Instant::now();
        #[expect(unsafe_code, reason = "an allocator's own call")]
        // SAFETY: no requirements; it only returns free pages.
        let released = unsafe { libc::malloc_trim(0) };
        tracing::debug!(released, took = ?start.elapsed(), "gave free memory back");
    }
}

/// Whether there is something to give back.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    anything: bool,
    last: Option<Instant>,
}

impl Freed {
    /// Notes that something was freed.
    pub(crate) fn note(&mut self) {
        self.anything = true;
    }

    /// Whether to give back now; it is then taken to be done.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let rested = self.last.is_none_or(|last| now.duration_since(last) >= PAUSE);
        let is_due = self.anything && rested;
        if is_due {
            (self.anything, self.last) = (false, Some(now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_once_and_not_all_the_time() {
        let (mut freed, start) = (Freed::default(), Instant::now());
        assert!(!freed.is_due(start), "nothing was freed");
        freed.note();
        assert!(freed.is_due(start));
        assert!(!freed.is_due(start + PAUSE), "nothing was freed since");
        freed.note();
        assert!(!freed.is_due(start + PAUSE / 2));
        assert!(freed.is_due(start + PAUSE));
    }
}
