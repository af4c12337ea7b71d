//! Loading the kernel side, and every map of it behind the one question it answers.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{Program, SchedClassifier},
    util::nr_cpus,
};
use dtm_common::{
    drops::{ADDRESSES_ENTRIES, Address, DROPS_ENTRIES, NETNS_ENTRIES},
    errors::{ERROR_KINDS, ERROR_NAMES},
    index::{INDEX_OVERFLOW_ENTRIES, IndexEntry, InterfaceKey},
};

use super::{
    CgroupWatch, CounterBanks, DropMap, DropReasons, KernelTypes, Template,
    drop_counter::DropCounter,
    load::{self, Constants, Handlers},
    pins::Pins,
    record, sys,
};

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
    /// A number for the programs: another dtm with the same has the same.
    pub program: u64,
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
    /// `dtm_transmit` and `dtm_receive`.
    classifiers: (OwnedFd, OwnedFd),
    /// Keeps drops counted.
    drop_counter: Option<DropCounter>,
    template: Arc<Template>,
    /// Keeps the maps, and what else is loaded.
    ebpf: Ebpf,
}

/// What the kernel side is loaded over.
pub(super) struct Ground<'a> {
    pub(super) types: Option<KernelTypes>,
    pub(super) constants: Constants,
    pub(super) limits: Limits,
    pub(super) cpus: usize,
    /// Where it outlives this process.
    pub(super) pins: Option<&'a Pins>,
    /// What an earlier process has loaded there are these programs.
    pub(super) has_programs: bool,
    /// A run that these maps take the place of.
    pub(super) former: Option<Pins>,
}

impl Ground<'_> {
    /// Of this kernel, with nothing left by anybody.
    /// `handlers` are where the kernel's functions are, where that is known: reading it takes longer than everything else.
    pub(super) fn new(
        btf: &Path,
        limits: Limits,
        handlers: Option<Handlers>,
    ) -> anyhow::Result<(Self, io::Result<Handlers>)> {
        let types = match KernelTypes::read(btf) {
            Ok(types) => Some(types),
            Err(error) => {
                let error = format_args!("{error:#}");
                tracing::warn!(error, "no type information of this kernel: drops are not counted");
                None
            }
        };
        let cpus = nr_cpus().map_err(|(path, error)| anyhow!(error).context(path))?;
        let (constants, symbols) = Constants::new(types.as_ref(), limits, handlers)?;
        let ground = Self {
            types,
            constants,
            limits,
            cpus,
            pins: None,
            has_programs: false,
            former: None,
        };
        Ok((ground, symbols))
    }
}

/// Says what a kernel without symbols costs. Only once dtm is loaded: where it cannot work, its error is the one line to
/// read.
pub(super) fn note_symbols(symbols: &io::Result<Handlers>) {
    if let Err(error) = symbols {
        tracing::warn!(
            %error,
            "cannot read the kernel's symbols: the ends of clean TCP connections show as drops with the reason \
             not_specified"
        );
    }
}

impl Kernel {
    /// Loads the programs and maps, and attaches the tracepoint of drops where the kernel allows it. Nothing of it outlives
    /// this process.
    ///
    /// Without type information at `btf`, or where the tracepoint is refused, drops are not counted; a warning says
    /// so and `drops` is empty. Everything else has to work.
    ///
    /// # Minimum kernel version
    ///
    /// 5.8 (`BPF_F_MMAPABLE` with bounded direct packet access); drops from 5.17 with their reasons.
    pub fn load(btf: &Path, limits: Limits) -> anyhow::Result<Self> {
        let (ground, symbols) = Ground::new(btf, limits, None)?;
        let kernel = Self::on(ground, btf)?;
        note_symbols(&symbols);
        Ok(kernel)
    }

    /// Loads what is not there yet.
    pub(super) fn on(ground: Ground<'_>, btf: &Path) -> anyhow::Result<Self> {
        let Ground {
            types,
            constants,
            limits,
            cpus,
            pins,
            has_programs,
            former,
        } = ground;
        let program = record::identity(&constants);
        let mut ebpf = load::object(&constants, limits, cpus, pins)?;
        let template = Template::new(&constants, &ebpf, limits)?;
        let mut classifier = |name| {
            let pin = pins.map(|pins| pins.program(&pinned_name(name, program)));
            let left = pin.as_ref().filter(|_pin| has_programs).map(|pin| sys::open(pin));
            match left {
                Some(Ok(program)) => Ok(program),
                _ => load_classifier(&mut ebpf, name, pin),
            }
        };
        let classifiers = (classifier("dtm_transmit")?, classifier("dtm_receive")?);
        let drop_counter = types
            .is_some()
            .then(|| DropCounter::start(&mut ebpf, btf, pins, has_programs, former.as_ref()));
        let drop_counter = drop_counter.and_then(|counted| {
            counted
                .inspect_err(|error| {
                    let error = format_args!("{error:#}");
                    tracing::warn!(
                        error,
                        "the tracepoint kfree_skb is refused: drops are not counted"
                    );
                })
                .ok()
        });
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
        let index_overflow: HashMap<_, InterfaceKey, u32> = take(&mut ebpf, "INDEX_OVERFLOW")?.try_into()?;
        let netns_owners: HashMap<_, u32, u32> = take(&mut ebpf, "NETNS_OWNERS")?.try_into()?;
        let address_owners: HashMap<_, Address, u32> = take(&mut ebpf, "ADDRESS_OWNERS")?.try_into()?;
        Ok(Self {
            counters,
            drops: drop_counter.is_some().then_some(drops),
            reasons: types.map_or_else(DropReasons::none, |types| types.reasons),
            program,
            index: take(&mut ebpf, "INDEX")?.try_into()?,
            owners: take(&mut ebpf, "OWNERS")?.try_into()?,
            errors: take(&mut ebpf, "ERRORS")?.try_into()?,
            overflowed: index_overflow.keys().count() as u64,
            netns_entries: netns_owners.keys().count() as u64,
            address_entries: address_owners.keys().count() as u64,
            index_overflow,
            netns_owners,
            address_owners,
            classifiers,
            drop_counter,
            template: Arc::new(template),
            ebpf,
        })
    }

    /// Descriptors of `dtm_transmit` and `dtm_receive`, for an attacher of its own.
    pub fn classifiers(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (transmit, receive) = &self.classifiers;
        Ok((transmit.try_clone()?, receive.try_clone()?))
    }

    /// Leaves the tracepoint of drops attached for whoever comes next, where it has a name.
    pub fn keep(self) {
        if let Some(counter) = self.drop_counter {
            counter.keep();
        }
    }

    /// Takes away the name of the tracepoint's link: it goes with this process.
    pub fn unpin(&mut self) {
        if let Some(counter) = &mut self.drop_counter {
            counter.unpin();
        }
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
        self.enter_again(key, slot)
    }

    /// Makes the classifiers count `key` into `slot`, starting from what is there.
    pub fn enter_again(&mut self, key: InterfaceKey, slot: u32) -> Result<(), MapError> {
        let bucket = key.bucket();
        let taken = self.index.get(&bucket, 0)?;
        if taken.key.ifindex == 0 || taken.key == key {
            return self.index.set(bucket, IndexEntry { key, slot }, 0);
        }
        let is_new = matches!(self.index_overflow.get(&key, 0), Err(MapError::KeyNotFound));
        self.index_overflow.insert(key, slot, 0)?;
        self.overflowed += u64::from(is_new);
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

    /// The namespaces and addresses that stand for somebody.
    pub fn owned(&self) -> (Vec<u32>, Vec<Address>) {
        let namespaces = self.netns_owners.keys().flatten();
        let addresses = self.address_owners.keys().flatten();
        (namespaces.collect(), addresses.collect())
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

/// What a program's pin is called. Another's program never has the same name.
fn pinned_name(name: &str, program: u64) -> String {
    format!("{name}-{program:016x}")
}

fn load_classifier(ebpf: &mut Ebpf, name: &'static str, pin: Option<PathBuf>) -> anyhow::Result<OwnedFd> {
    let program = classifier(ebpf, name)?;
    program
        .load()
        .with_context(|| format!("load {name}: the kernel's verifier refused it"))?;
    let program = program.fd()?.as_fd().try_clone_to_owned()?;
    if let Some(path) = pin {
        match sys::pin(program.as_fd(), &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("pin {name}"));
            }
            _ => {}
        }
    }
    Ok(program)
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
