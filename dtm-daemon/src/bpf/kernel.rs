//! Loading the kernel side, and every map of it behind the one question it answers.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{BtfTracePoint, Program, SchedClassifier},
    util::nr_cpus,
};
use dtm_common::{
    drops::{ADDRESSES_ENTRIES, Address, DROPS_ENTRIES, HANDLERS, NETNS_ENTRIES},
    errors::{ERROR_KINDS, ERROR_NAMES},
    index::{INDEX_OVERFLOW_ENTRIES, IndexEntry, InterfaceKey},
};

use super::{CounterBanks, DropMap, DropReasons, KernelTypes, OBJECT, symbols};

/// What the maps are sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Interfaces counted at one time.
    pub slots: u32,
}

/// A map's name, entries in use and most entries.
pub type MapUse = (&'static str, u64, u64);

/// The loaded kernel side.
pub struct Kernel {
    /// The traffic counters.
    pub counters: CounterBanks,
    /// The drops; none where the kernel offers no way to see them.
    pub drops: Option<DropMap>,
    /// The running kernel's drop reasons.
    pub reasons: DropReasons,
    index: Array<MapData, IndexEntry>,
    index_overflow: HashMap<MapData, InterfaceKey, u32>,
    owners: Array<MapData, u32>,
    netns_owners: HashMap<MapData, u32, u32>,
    address_owners: HashMap<MapData, Address, u32>,
    errors: PerCpuArray<MapData, u64>,
    /// Interfaces in `INDEX_OVERFLOW`, `NETNS_OWNERS` and `ADDRESS_OWNERS`.
    overflowed: u64,
    netns_entries: u64,
    address_entries: u64,
    /// Keeps the programs loaded and the tracepoint attached.
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the programs and maps, and attaches the tracepoint of drops where the kernel allows it.
    ///
    /// Without type information at `btf`, or where the tracepoint is refused, drops are not counted; a warning says
    /// so and `drops` is empty. Everything else has to work.
    ///
    /// # Minimum kernel version
    ///
    /// 5.8 (`BPF_F_MMAPABLE` with bounded direct packet access); drops from 5.17 with their reasons.
    pub fn load(btf: &Path, limits: Limits) -> anyhow::Result<Self> {
        let types = match KernelTypes::read(btf) {
            Ok(types) => Some(types),
            Err(error) => {
                let error = format_args!("{error:#}");
                tracing::warn!(error, "no type information of this kernel: drops are not counted");
                None
            }
        };
        let cpus = nr_cpus().map_err(|(path, error)| anyhow!(error).context(path))?;
        let mut ebpf = load_object(types.as_ref(), limits, cpus)?;
        for name in ["dtm_transmit", "dtm_receive"] {
            classifier(&mut ebpf, name)?
                .load()
                .with_context(|| format!("load {name}: the kernel's verifier refused it"))?;
        }
        let has_drops = types.is_some()
            && match attach_tracepoint(&mut ebpf, btf) {
                Ok(()) => true,
                Err(error) => {
                    let error = format_args!("{error:#}");
                    tracing::warn!(
                        error,
                        "the tracepoint kfree_skb is refused: drops are not counted"
                    );
                    false
                }
            };
        let counters = take(&mut ebpf, "COUNTERS")?;
        let Map::Array(counters) = &counters else {
            return Err(anyhow!("COUNTERS is no array"));
        };
        let counters = CounterBanks::map(counters.fd().as_fd(), limits.slots, cpus)
            .context("map the counters into the daemon")?;
        let drops = take(&mut ebpf, "DROPS")?;
        let drops_fd = match &drops {
            Map::PerCpuHashMap(data) => data.fd().as_fd().try_clone_to_owned()?,
            _ => return Err(anyhow!("DROPS is no per-CPU hash")),
        };
        let drops = DropMap::new(drops.try_into()?, drops_fd, cpus);
        Ok(Self {
            counters,
            drops: has_drops.then_some(drops),
            reasons: types.map_or_else(DropReasons::none, |types| types.reasons),
            index: take(&mut ebpf, "INDEX")?.try_into()?,
            index_overflow: take(&mut ebpf, "INDEX_OVERFLOW")?.try_into()?,
            owners: take(&mut ebpf, "OWNERS")?.try_into()?,
            netns_owners: take(&mut ebpf, "NETNS_OWNERS")?.try_into()?,
            address_owners: take(&mut ebpf, "ADDRESS_OWNERS")?.try_into()?,
            errors: take(&mut ebpf, "ERRORS")?.try_into()?,
            overflowed: 0,
            netns_entries: 0,
            address_entries: 0,
            ebpf,
        })
    }

    /// Descriptors of `dtm_transmit` and `dtm_receive`, for an attacher of its own.
    pub fn classifiers(&mut self) -> anyhow::Result<(OwnedFd, OwnedFd)> {
        let mut fd = |name| -> anyhow::Result<OwnedFd> {
            Ok(classifier(&mut self.ebpf, name)?
                .fd()?
                .as_fd()
                .try_clone_to_owned()?)
        };
        Ok((fd("dtm_transmit")?, fd("dtm_receive")?))
    }

    /// A program by name, to test-run it.
    pub fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.ebpf.program_mut(name)
    }

    /// The object's logger reads its ring buffer from here.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Makes the classifiers count `key` into `slot`, starting from zero.
    pub fn enter(&mut self, key: InterfaceKey, slot: u32) -> Result<(), MapError> {
        self.counters.clear(slot);
        let bucket = key.bucket();
        let taken = self.index.get(&bucket, 0)?;
        if taken.key.ifindex == 0 || taken.key == key {
            return self.index.set(bucket, IndexEntry { key, slot }, 0);
        }
        self.index_overflow.insert(key, slot, 0)?;
        self.overflowed += 1;
        Ok(())
    }

    /// Makes the classifiers forget `key`. Only once nothing is attached to it.
    pub fn leave(&mut self, key: InterfaceKey) -> Result<(), MapError> {
        let bucket = key.bucket();
        if self.index.get(&bucket, 0)?.key == key {
            return self.index.set(bucket, IndexEntry::default(), 0);
        }
        if removed(self.index_overflow.remove(&key))? {
            self.overflowed -= 1;
        }
        Ok(())
    }

    /// Whose the drops at a slot's interface are.
    pub fn set_owner(&mut self, slot: u32, owner: u32) -> Result<(), MapError> {
        self.owners.set(slot, owner, 0)
    }

    /// Whose the drops inside a network namespace are; `None` forgets it.
    pub fn set_netns_owner(&mut self, inum: u32, owner: Option<u32>) -> Result<(), MapError> {
        set_owner_of(&mut self.netns_owners, inum, owner, &mut self.netns_entries)
    }

    /// Whose the drops of packets from or to an address are; `None` forgets it.
    pub fn set_address_owner(&mut self, address: Address, owner: Option<u32>) -> Result<(), MapError> {
        set_owner_of(
            &mut self.address_owners,
            address,
            owner,
            &mut self.address_entries,
        )
    }

    /// How often each of the kernel side's own errors happened.
    pub fn errors(&self) -> Result<Vec<(&'static str, u64)>, MapError> {
        (0..ERROR_KINDS)
            .zip(ERROR_NAMES)
            .map(|(kind, name)| Ok((name, self.errors.get(&kind, 0)?.iter().sum())))
            .collect()
    }

    /// How full the maps are that are not counted by their owner.
    pub fn map_use(&self, drops: u64) -> [MapUse; 4] {
        [
            ("index_overflow", self.overflowed, INDEX_OVERFLOW_ENTRIES.into()),
            ("netns_owners", self.netns_entries, NETNS_ENTRIES.into()),
            ("address_owners", self.address_entries, ADDRESSES_ENTRIES.into()),
            ("drops", drops, DROPS_ENTRIES.into()),
        ]
    }
}

fn load_object(types: Option<&KernelTypes>, limits: Limits, cpus: usize) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let banks = u32::try_from(cpus)
        .ok()
        .and_then(|cpus| cpus.checked_mul(limits.slots));
    let banks = banks.ok_or_else(|| anyhow!("{} slots on {cpus} CPUs are too many", limits.slots))?;
    loader
        .map_max_entries("COUNTERS", banks)
        .map_max_entries("OWNERS", limits.slots);
    let netns = own_netns_inode().context("read the inode of dtm's own network namespace")?;
    // The values must outlive the loader, which borrows them.
    let (mut words, mut bits) = (vec![("SLOTS", limits.slots), ("NETNS_INUM", netns)], Vec::new());
    if let Some(KernelTypes { offsets, reasons }) = types {
        words.extend(offsets.iter().copied());
        words.push((
            "REASON_NOT_SPECIFIED",
            reasons.not_specified().unwrap_or(u32::MAX),
        ));
        let no_drops = reasons.no_drops();
        // The two halves, low one first.
        bits = vec![
            ("NO_DROP_LOW", no_drops as u64),
            ("NO_DROP_HIGH", (no_drops >> 64) as u64),
        ];
    }
    for (name, value) in &words {
        loader.override_global(name, value, true);
    }
    for (name, value) in &bits {
        loader.override_global(name, value, true);
    }
    let symbols = symbols::ranges(Path::new("/proc/kallsyms"), HANDLERS);
    let handled = *symbols.as_ref().unwrap_or(&[[0; 2]; HANDLERS.len()]);
    loader.override_global("HANDLED", &handled, true);
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
    Ok(ebpf)
}

/// The operating system's error somewhere in a chain.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
    })
}

fn own_netns_inode() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    // The kernel's own number is 32 bits wide.
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino() as u32)
}

fn attach_tracepoint(ebpf: &mut Ebpf, btf: &Path) -> anyhow::Result<()> {
    let btf = Btf::parse_file(btf, aya::Endianness::default())?;
    let program: &mut BtfTracePoint = ebpf
        .program_mut("dtm_kfree_skb")
        .ok_or_else(|| anyhow!("no program dtm_kfree_skb"))?
        .try_into()?;
    program.load("kfree_skb", &btf)?;
    program.attach()?;
    Ok(())
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the kernel side has no program {name}"))?;
    Ok(program.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name)
        .ok_or_else(|| anyhow!("the kernel side has no map {name}"))
}

/// Writes or removes one owner and keeps count of the entries.
fn set_owner_of<K: aya::Pod>(
    map: &mut HashMap<MapData, K, u32>,
    key: K,
    owner: Option<u32>,
    entries: &mut u64,
) -> Result<(), MapError> {
    let Some(owner) = owner else {
        if removed(map.remove(&key))? {
            *entries -= 1;
        }
        return Ok(());
    };
    let is_new = matches!(map.get(&key, 0), Err(MapError::KeyNotFound));
    map.insert(key, owner, 0)?;
    *entries += u64::from(is_new);
    Ok(())
}

/// Whether something was removed; that it was not there is no error.
fn removed(result: Result<(), MapError>) -> Result<bool, MapError> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
