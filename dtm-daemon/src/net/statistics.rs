//! What the kernel's devices have thrown away by their own counters.

use std::{collections::HashMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// Packets a device counts as thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDrops {
    /// On their way in.
    pub receive: u64,
    /// On their way out.
    pub transmit: u64,
}

/// The drops of every device of a network namespace, by name, from a file like `/proc/net/dev`: reading it waits for nobody,
/// where netlink's answer may wait for RTNL.
pub fn device_drops(path: &Path) -> io::Result<HashMap<String, DeviceDrops>> {
    Ok(parse(&fs::read_to_string(path)?))
}

/// A line is `name: bytes packets errs drop fifo frame compressed multicast`, and then the same of what is sent.
fn parse(text: &str) -> HashMap<String, DeviceDrops> {
    let of_line = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let mut numbers = numbers.split_ascii_whitespace().map(str::parse);
        let receive = numbers.nth(3)?.ok()?;
        let transmit = numbers.nth(7)?.ok()?;
        Some((name.trim().to_owned(), DeviceDrops { receive, transmit }))
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_out_of_a_line_of_each_device() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:    1692      16    0    0    0     0          0         0     1692      16    0    0    0     0       0          0\n\
             veth1a2b3c4:  5 1 2 17 4 5 6 7 8 9 10 23 12 13 14 15\n";
        let drops = parse(text);
        assert_eq!(drops.len(), 2);
        let expected = DeviceDrops {
            receive: 17,
            transmit: 23,
        };
        assert_eq!(drops["veth1a2b3c4"], expected);
        assert_eq!(drops["lo"], DeviceDrops::default());
    }
}
