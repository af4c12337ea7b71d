//! What pins are called: what is needed to know them again is in their names.

use std::{fmt, str::FromStr};

use dtm_common::traffic::Direction;

use crate::bpf::XdpMode;

/// A link to an interface or a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkName {
    /// The slot its program counts into.
    pub slot: u32,
    /// dtm's own number for this life of the interface.
    pub generation: u64,
    /// Which way.
    pub direction: Direction,
    /// The kernel's number for the link: one that took another's place has another.
    pub id: u32,
}

/// A program that counts into one slot and that nothing holds yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramName {
    /// For a control group, else for a container's own device.
    pub is_of_group: bool,
    /// The slot it counts into.
    pub slot: u32,
    /// Which way.
    pub direction: Direction,
    /// What [`Kernel::program`](crate::bpf::Kernel::program) says of the dtm that loaded it.
    pub program: u64,
}

/// A link to an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UplinkName {
    /// The slot of uplinks that its program counts into.
    pub slot: u32,
    /// Where it runs.
    pub mode: XdpMode,
    /// What [`Kernel::program`](crate::bpf::Kernel::program) says of the dtm that loaded it.
    pub program: u64,
}

/// It is none of dtm's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Receive => "receive",
        Direction::Transmit => "transmit",
    }
}

fn direction(word: &str) -> Option<Direction> {
    match word {
        "receive" => Some(Direction::Receive),
        "transmit" => Some(Direction::Transmit),
        _ => None,
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            slot,
            generation,
            direction,
            id,
        } = self;
        write!(f, "{slot}-{generation}-{}-{id}", word(*direction))
    }
}

impl FromStr for LinkName {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        let mut parts = name.split('-');
        let mut read = || {
            Some(Self {
                slot: parts.next()?.parse().ok()?,
                generation: parts.next()?.parse().ok()?,
                direction: direction(parts.next()?)?,
                id: parts.next()?.parse().ok()?,
            })
        };
        read().filter(|read| read.to_string() == name).ok_or(Unknown)
    }
}

impl fmt::Display for ProgramName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_of_group { "group" } else { "device" };
        write!(
            f,
            "{kind}-{}-{}-{:016x}",
            self.slot,
            word(self.direction),
            self.program
        )
    }
}

impl FromStr for ProgramName {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        let mut parts = name.split('-');
        let mut read = || {
            Some(Self {
                is_of_group: match parts.next()? {
                    "group" => true,
                    "device" => false,
                    _ => return None,
                },
                slot: parts.next()?.parse().ok()?,
                direction: direction(parts.next()?)?,
                program: u64::from_str_radix(parts.next()?, 16).ok()?,
            })
        };
        read().filter(|read| read.to_string() == name).ok_or(Unknown)
    }
}

impl fmt::Display for UplinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, mode, program } = self;
        write!(f, "uplink-{slot}-{}-{program:016x}", mode.as_str())
    }
}

impl FromStr for UplinkName {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        let mut parts = name.strip_prefix("uplink-").ok_or(Unknown)?.split('-');
        let mut read = || {
            let slot = parts.next()?.parse().ok()?;
            let mode = parts.next()?;
            Some(Self {
                slot,
                mode: XdpMode::ALL.into_iter().find(|known| known.as_str() == mode)?,
                program: u64::from_str_radix(parts.next()?, 16).ok()?,
            })
        };
        read().filter(|read| read.to_string() == name).ok_or(Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let link = LinkName {
            slot: 7,
            generation: u64::MAX,
            direction: Direction::Transmit,
            id: 31,
        };
        assert_eq!(link.to_string(), "7-18446744073709551615-transmit-31");
        assert_eq!(link.to_string().parse(), Ok(link));
        let program = ProgramName {
            is_of_group: true,
            slot: 9,
            direction: Direction::Receive,
            program: 0xdab,
        };
        assert_eq!(program.to_string(), "group-9-receive-0000000000000dab");
        assert_eq!(program.to_string().parse(), Ok(program));
        let uplink = UplinkName {
            slot: 3,
            mode: XdpMode::Generic,
            program: 0xdab,
        };
        assert_eq!(uplink.to_string(), "uplink-3-generic-0000000000000dab");
        assert_eq!(uplink.to_string().parse(), Ok(uplink));
        assert_eq!(uplink.to_string().parse::<LinkName>(), Err(Unknown));
    }

    #[test]
    fn others_are_not() {
        for name in [
            "",
            "kfree_skb",
            "7-1-transmit",
            "7-1-transmit-3-4",
            "07-1-receive-3",
            "7-1-up-3",
        ] {
            assert_eq!(name.parse::<LinkName>(), Err(Unknown), "{name}");
        }
        for name in [
            "dtm_transmit",
            "group-1",
            "group--receive",
            "group-1-receive-2",
            "veth-1-receive-0000000000000dab",
        ] {
            assert_eq!(name.parse::<ProgramName>(), Err(Unknown), "{name}");
        }
        for name in [
            "kfree_skb",
            "uplink-1",
            "uplink-1-fast-0000000000000dab",
            "uplink-1-native-dab",
        ] {
            assert_eq!(name.parse::<UplinkName>(), Err(Unknown), "{name}");
        }
    }
}
