//! Names of hosts, which tell whose they are.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// `dtm-<owner>-<start time of the owner>-<n>`: unique, and dead once its owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostName {
    owner: u32,
    started: u64,
    number: u32,
}

impl HostName {
    pub(super) fn next() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let owner = std::process::id();
        let started = start_time(owner).context("read this process's start time")?;
        Ok(Self {
            owner,
            started,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Whether the process that made it still runs. An id alone can belong to another one by now.
    pub(super) fn owner_lives(self) -> bool {
        start_time(self.owner) == Some(self.started)
    }
}

/// In clock ticks since the machine's boot.
fn start_time(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name, in parentheses, can hold anything; the start is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner,
            started,
            number,
        } = self;
        write!(f, "dtm-{owner}-{started}-{number}")
    }
}

impl FromStr for HostName {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let mut parts = name.strip_prefix("dtm-").ok_or(())?.split('-');
        let mut part = || parts.next().ok_or(());
        let (owner, started, number) = (part()?, part()?, part()?);
        let parsed = Self {
            owner: owner.parse().map_err(drop)?,
            started: started.parse().map_err(drop)?,
            number: number.parse().map_err(drop)?,
        };
        // Exactly as it would be written, nothing that merely resembles it.
        if parsed.to_string() == name {
            Ok(parsed)
        } else {
            Err(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        let name = HostName::next().unwrap();
        assert_eq!(name.to_string().parse(), Ok(name));
        assert!(name.owner_lives());
    }

    #[test]
    fn another_start_time_is_another_owner() {
        let name = HostName::next().unwrap();
        assert!(
            !HostName {
                started: name.started + 1,
                ..name
            }
            .owner_lives()
        );
    }

    #[test]
    fn only_exact_names_are_taken_for_a_host() {
        for other in [
            "dtm",
            "dtm-1-2",
            "dtm-01-2-3",
            "dtm-1-2-3-4",
            "dtm-1-2-x",
            "docker",
        ] {
            assert!(other.parse::<HostName>().is_err(), "{other}");
        }
    }
}
