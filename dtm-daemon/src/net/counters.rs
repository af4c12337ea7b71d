//! What the kernel counts for a network namespace by itself.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// How often a listening socket could not take a connection, `TcpExtListenOverflows` and `TcpExtListenDrops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenCounts {
    /// Its queue of connections to accept was full.
    pub overflows: u64,
    /// Any of the reasons to drop a connection request or a new connection, overflows among them.
    pub drops: u64,
}

impl ListenCounts {
    /// Those of the namespace that a process is in, since the namespace was made.
    ///
    /// # Errors
    ///
    /// Where there is no such process, or the kernel does not say.
    pub fn read(procfs: &Path, pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(procfs.join(format!("{pid}/net/netstat")))?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "net/netstat has no counts of listeners",
            )
        })
    }

    /// A line of names and a line of values for each prefix.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, values) = (lines.next()?, lines.next()?);
        let of = |wanted: &str| {
            let at = names.split_ascii_whitespace().position(|name| name == wanted)?;
            values.split_ascii_whitespace().nth(at)?.parse().ok()
        };
        Some(Self {
            overflows: of("ListenOverflows")?,
            drops: of("ListenDrops")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let text = "TcpExt: SyncookiesSent ListenDrops ListenOverflows\nTcpExt: 1 22 3\nIpExt: InNoRoutes\nIpExt: 0\n";
        let counts = ListenCounts::parse(text).unwrap();
        assert_eq!((counts.overflows, counts.drops), (3, 22));
        assert_eq!(ListenCounts::parse("TcpExt: A\nTcpExt: 1\n"), None);
        assert_eq!(ListenCounts::parse(""), None);
    }

    #[test]
    fn the_running_kernel_says() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(ListenCounts::read(Path::new("/proc"), own).is_ok());
    }
}
