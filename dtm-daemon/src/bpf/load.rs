//! The object and its constants, as they are loaded once and again.

use std::{io, path::Path};

use anyhow::{Context as _, anyhow};
use aya::{Ebpf, EbpfLoader};
use dtm_common::drops::HANDLERS;

use super::{KernelTypes, Limits, OBJECT, symbols};

/// The kernel side's constants that are not what they are in the object, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Constants(Vec<(&'static str, Vec<u8>)>);

impl Constants {
    /// Those of this kernel and this daemon, and whether the kernel's symbols could be read for them.
    fn new(types: Option<&KernelTypes>, limits: Limits) -> anyhow::Result<(Self, io::Result<()>)> {
        let mut constants = Self::default();
        constants.set("SLOTS", limits.slots);
        let netns = own_netns_inode().context("read the inode of dtm's own network namespace")?;
        constants.set("NETNS_INUM", netns);
        if let Some(KernelTypes { offsets, reasons }) = types {
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
        let symbols = symbols::ranges(Path::new("/proc/kallsyms"), HANDLERS);
        let handled = *symbols.as_ref().unwrap_or(&[[0; 2]; HANDLERS.len()]);
        let handled = handled.as_flattened().iter().copied();
        constants.push("HANDLED", handled.flat_map(u64::to_ne_bytes).collect());
        Ok((constants, symbols.map(drop)))
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

/// Makes the maps and prepares the programs; none is loaded yet.
pub(super) fn object(
    types: Option<&KernelTypes>,
    limits: Limits,
    cpus: usize,
) -> anyhow::Result<(Ebpf, Constants)> {
    let mut loader = EbpfLoader::new();
    let banks = u32::try_from(cpus)
        .ok()
        .and_then(|cpus| cpus.checked_mul(limits.slots));
    let banks = banks.ok_or_else(|| anyhow!("{} slots on {cpus} CPUs are too many", limits.slots))?;
    loader
        .map_max_entries("COUNTERS", banks)
        .map_max_entries("OWNERS", limits.slots);
    let (constants, symbols) = Constants::new(types, limits)?;
    for (name, value) in constants.iter() {
        loader.override_global(name, value, true);
    }
    // The operating system's own error says enough of these two: the chain above it repeats itself.
    let ebpf = loader.load(OBJECT).map_err(|error| match os_error(&error) {
        Some(errno @ libc::EPERM) => anyhow!(io::Error::from_raw_os_error(errno)).context(
            "load the kernel side: not permitted; run dtm as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and \
             CAP_SYS_ADMIN (docker run --privileged)",
        ),
        Some(errno @ libc::ENOSYS) => anyhow!(io::Error::from_raw_os_error(errno)).context(
            "load the kernel side: this kernel has no bpf(2); dtm needs Linux 5.8 or later with CONFIG_BPF_SYSCALL",
        ),
        _ => anyhow!(error).context("load the kernel side"),
    })?;
    // Only now: where dtm cannot work, its error is the one line to read.
    if let Err(error) = symbols {
        tracing::warn!(
            %error,
            "cannot read the kernel's symbols: the ends of clean TCP connections show as drops with the reason \
             not_specified"
        );
    }
    Ok((ebpf, constants))
}

/// The operating system's error somewhere in a chain.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
    })
}

/// The inode of the calling thread's network namespace.
pub(super) fn own_netns_inode() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    // The kernel's own number is 32 bits wide.
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino() as u32)
}
