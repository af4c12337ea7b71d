//! The object and its constants, as they are loaded once and again.

use std::{io, path::Path};

use anyhow::{Context as _, anyhow};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use dtm_common::{
    drops::HANDLERS,
    tcp::{TELLS_RETRANSMISSIONS, TELLS_ROUND_TRIPS, TELLS_STATES},
    uplinks::UPLINKS_MAX,
};

use crate::net::own_netns_inode;

use super::{KernelTypes, Limits, OBJECT, flows, pins::Pins, symbols, sys::MapShape, uplinks, views::chunks};

/// The maps that outlive the daemon. The others hold what only a reader makes something of.
pub(super) const PINNED: [&str; 23] = [
    "INDEX",
    "INDEX_OVERFLOW",
    "COUNTERS",
    "VIEWS",
    "SITES",
    "PEERS",
    "PEERS_OVERFLOW",
    "SENDERS",
    "SENDER_LEVELS",
    "FLOWS",
    "PORTS",
    "OWNERS",
    "NETNS_OWNERS",
    "ADDRESS_OWNERS",
    "GROUP_OWNERS",
    "DROPS",
    "DROP_COUNTER",
    "TCP",
    "HANDSHAKES",
    "TCP_RUNNING",
    uplinks::MAP,
    "ERRORS",
    // What a program says that was loaded by an earlier process is heard, too.
    "AYA_LOGS",
];

/// Where the functions of [`HANDLERS`] are in the running kernel.
pub(super) type Handlers = [[u64; 2]; HANDLERS.len()];

/// The kernel side's constants that are not what they are in the object, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Constants(Vec<(&'static str, Vec<u8>)>);

impl Constants {
    /// Those of this kernel and this daemon, and where the kernel's functions are: read from its symbols unless that is known.
    pub(super) fn new(
        types: Option<&KernelTypes>,
        limits: Limits,
        known: Option<Handlers>,
    ) -> anyhow::Result<(Self, io::Result<Handlers>)> {
        let mut constants = Self::default();
        constants.set("SLOTS", limits.slots);
        constants.set("CHUNKS", chunks(limits.slots));
        constants.set("COUNT_SCOPES", limits.scopes.into());
        constants.set("COUNT_FLOWS", (limits.pairs > 0).into());
        let round_trips = if limits.round_trips { TELLS_ROUND_TRIPS } else { 0 };
        constants.set("WANTED", TELLS_RETRANSMISSIONS | TELLS_STATES | round_trips);
        let netns = own_netns_inode().context("read the inode of dtm's own network namespace")?;
        constants.set("NETNS_INUM", netns);
        if let Some(KernelTypes {
            offsets,
            has_receiver,
            reasons,
            ..
        }) = types
        {
            constants.set("HAS_RECEIVER", (*has_receiver).into());
            for (name, offset) in offsets {
                constants.set(name, *offset);
            }
            constants.set(
                "REASON_NOT_SPECIFIED",
                reasons.not_specified().unwrap_or(u32::MAX),
            );
            let no_drops = reasons.no_drops();
            constants.push("NO_DROP_LOW", (no_drops as u64).to_ne_bytes().to_vec());
            constants.push("NO_DROP_HIGH", ((no_drops >> 64) as u64).to_ne_bytes().to_vec());
        }
        let symbols = known.map_or_else(|| symbols::ranges(Path::new("/proc/kallsyms"), HANDLERS), Ok);
        let handled = *symbols.as_ref().unwrap_or(&[[0; 2]; HANDLERS.len()]);
        let handled = handled.as_flattened().iter().copied();
        constants.push("HANDLED", handled.flat_map(u64::to_ne_bytes).collect());
        Ok((constants, symbols))
    }

    /// A number of 32 bits.
    pub(super) fn set(&mut self, name: &'static str, value: u32) {
        self.push(name, value.to_ne_bytes().to_vec());
    }

    fn push(&mut self, name: &'static str, value: Vec<u8>) {
        self.0.push((name, value));
    }

    /// Each name with its value's bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.0.iter().map(|(name, value)| (*name, value.as_slice()))
    }
}

/// The entries of the maps that are sized for the host.
fn entries(limits: Limits, cpus: usize) -> anyhow::Result<[(&'static str, u32); 6]> {
    let banks = u32::try_from(cpus)
        .ok()
        .and_then(|cpus| cpus.checked_mul(limits.slots));
    let banks = banks.ok_or_else(|| anyhow!("{} slots on {cpus} CPUs are too many", limits.slots))?;
    Ok([
        ("COUNTERS", banks),
        ("VIEWS", cpus as u32 * chunks(limits.slots)),
        ("SITES", limits.slots),
        ("FLOWS", flows::entries(limits.pairs)),
        ("OWNERS", limits.slots),
        (uplinks::MAP, cpus as u32 * UPLINKS_MAX),
    ])
}

/// The shapes of the maps that outlive the daemon, as this one makes them.
pub(super) fn shapes(limits: Limits, cpus: usize) -> anyhow::Result<Vec<(&'static str, MapShape)>> {
    let object = Object::parse(OBJECT).context("parse the kernel side")?;
    let entries = entries(limits, cpus)?;
    let shape = |name: &'static str| {
        let map = object
            .maps
            .get(name)
            .with_context(|| format!("the kernel side has no map {name}"))?;
        let sized = entries.iter().find(|(sized, _entries)| *sized == name);
        let shape = MapShape {
            kind: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: sized.map_or(map.max_entries(), |(_name, entries)| *entries),
            flags: map.map_flags(),
        };
        Ok((name, shape))
    };
    PINNED.into_iter().map(shape).collect()
}

/// Makes the maps, or goes on with those in `pins`, and prepares the programs; none is loaded yet.
pub(super) fn object(
    constants: &Constants,
    limits: Limits,
    cpus: usize,
    pins: Option<&Pins>,
) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, entries) in entries(limits, cpus)? {
        loader.map_max_entries(name, entries);
    }
    for (name, value) in constants.iter() {
        loader.override_global(name, value, true);
    }
    if let Some(pins) = pins {
        for name in PINNED {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    // The operating system's own error says enough of these two: the chain above it repeats itself.
    loader.load(OBJECT).map_err(|error| match os_error(&error) {
        Some(errno @ libc::EPERM) => anyhow!(io::Error::from_raw_os_error(errno)).context(
            "load the kernel side: not permitted; run dtm as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and \
             CAP_SYS_ADMIN (docker run --privileged)",
        ),
        Some(errno @ libc::ENOSYS) => anyhow!(io::Error::from_raw_os_error(errno)).context(
            "load the kernel side: this kernel has no bpf(2); dtm needs Linux 5.8 or later with CONFIG_BPF_SYSCALL",
        ),
        _ => anyhow!(error).context("load the kernel side"),
    })
}

/// The operating system's error somewhere in a chain.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
    })
}
