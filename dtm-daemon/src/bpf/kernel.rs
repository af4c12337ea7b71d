//! Loading the kernel side, and every map of it behind the one question it answers.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Btf, Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{BtfTracePoint, Program, SchedClassifier},
    util::nr_cpus,
};
use dtm_common::{
    drops::{ADDRESSES_ENTRIES, Address, DROPS_ENTRIES, NETNS_ENTRIES},
    errors::{ERROR_KINDS, ERROR_NAMES},
    index::{INDEX_OVERFLOW_ENTRIES, IndexEntry, InterfaceKey},
};

use super::{CgroupWatch, CounterBanks, DropMap, DropReasons, KernelTypes, Template, load};

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
    template: Arc<Template>,
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
        let (mut ebpf, constants) = load::object(types.as_ref(), limits, cpus)?;
        let template = Template::new(&constants, &ebpf, limits)?;
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
            template: Arc::new(template),
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

    /// What makes the programs once more, with constants of their own, over the maps of these.
    pub fn template(&self) -> Arc<Template> {
        Arc::clone(&self.template)
    }

    /// Starts to be told of control groups that are made and removed.
    ///
    /// To be called once, inside of a tokio runtime with I/O.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the tracepoints: nothing tells of control groups then.
    pub fn watch_cgroups(&mut self) -> anyhow::Result<CgroupWatch> {
        CgroupWatch::start(&mut self.ebpf)
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

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
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
