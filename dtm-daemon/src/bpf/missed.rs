//! Runs of programs that the kernel left out.
//!
//! A program at a tracepoint is not run where it, or another run of it on the same CPU, is what has led there; the kernel
//! counts that, from Linux 5.12 on.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::sys;

/// Programs whose runs must not be left out unnoticed.
#[derive(Default)]
pub struct Missed {
    /// What each one tells of, and the program.
    programs: Vec<(&'static str, OwnedFd)>,
}

impl Missed {
    /// Has a program looked at: what it would have told of is `source`. Several may have the same.
    pub(super) fn watch(&mut self, source: &'static str, program: OwnedFd) {
        self.programs.push((source, program));
    }

    /// As [`watch`](Self::watch), the program that a link has attached, whoever loaded it.
    pub(super) fn watch_link(&mut self, source: &'static str, link: BorrowedFd<'_>) {
        match sys::program_of(link) {
            Ok(program) => self.watch(source, program),
            Err(error) => tracing::debug!(source, %error, "cannot look at a link's program"),
        }
    }

    /// How many runs each one has missed since it was loaded, which may have been by an earlier process.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.programs.iter().map(|(source, program)| {
            let missed = sys::recursion_misses(program.as_fd());
            let missed =
                missed.inspect_err(|error| tracing::debug!(source, %error, "cannot ask about a program"));
            (*source, missed.unwrap_or(0))
        })
    }
}
