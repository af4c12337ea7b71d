//! Loading the kernel side, and every map of it behind the one question it answers.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
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
    drops::DROPS_ENTRIES,
    errors::{ERROR_KINDS, ERROR_NAMES},
    index::{INDEX_OVERFLOW_ENTRIES, IndexEntry, InterfaceKey},
    views::ports,
};

use super::{
    CgroupWatch, CounterBanks, DropMap, DropReasons, FlowMap, KernelTypes, Missed, Owners, Peers, Template,
    UplinkBanks,
    drop_counter::{self, DropCounter},
    load::{self, Constants, Handlers},
    pins::Pins,
    record, sys,
    tcp::{self, SocketWalk, Tcp, TcpCounting, TcpMap},
    types::Types,
    uplinks,
};

/// What the maps are sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Interfaces counted at one time.
    pub slots: u32,
    /// Whether the second view is counted: by scope and protocol.
    pub scopes: bool,
    /// Pairs of the matrix; 0 where it is not counted.
    pub pairs: u32,
    /// Whether it is counted how TCP connections fare.
    pub tcp: bool,
    /// Whether that is with their round trips.
    pub round_trips: bool,
}

impl Limits {
    /// Whether anything is counted that takes a look at addresses.
    pub fn has_views(self) -> bool {
        self.scopes || self.pairs > 0
    }
}

impl Default for Limits {
    /// Little, and of everything.
    fn default() -> Self {
        Self {
            slots: 64,
            scopes: true,
            pairs: 2_000,
            tcp: true,
            round_trips: true,
        }
    }
}

/// A map's name, entries in use and most entries.
pub type MapUse = (&'static str, u64, u64);

/// The loaded kernel side.
pub struct Kernel {
    /// The traffic counters.
    pub counters: CounterBanks,
    /// The drops; none where the kernel offers no way to see them.
    pub drops: Option<DropMap>,
    /// The matrix; none where it is switched off.
    pub flows: Option<FlowMap>,
    /// How connections fare; none where that is switched off, or the kernel offers no way to see it.
    pub tcp: Option<TcpMap>,
    /// Who is where.
    pub peers: Peers,
    /// Whose everything is.
    pub owners: Owners,
    /// What the programs at tracepoints have missed.
    pub missed: Missed,
    /// What arrives at uplinks, where any are named.
    pub uplinks: Arc<UplinkBanks>,
    /// What it was loaded for.
    pub limits: Limits,
    /// The running kernel's drop reasons.
    pub reasons: DropReasons,
    /// A number for the programs: another dtm with the same has the same.
    pub program: u64,
    index: Array<MapData, IndexEntry>,
    index_overflow: HashMap<MapData, InterfaceKey, u32>,
    errors: PerCpuArray<MapData, u64>,
    /// Interfaces in `INDEX_OVERFLOW`.
    overflowed: u64,
    /// `dtm_transmit` and `dtm_receive`.
    classifiers: (OwnedFd, OwnedFd),
    /// Keeps drops counted.
    drop_counter: Option<DropCounter>,
    /// The same of connections.
    tcp_counting: Option<TcpCounting>,
    /// Until somebody wants it.
    walk: Option<anyhow::Result<SocketWalk>>,
    /// Where it outlives this process.
    pins: Option<Pins>,
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
        let mut constants = constants;
        let epoch = epoch(program);
        constants.set("TCP_EPOCH", epoch);
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
        let kernel_types = Types::new(btf);
        let drop_counter = types.as_ref().and_then(|_known| {
            drop_counter::start(&mut ebpf, &kernel_types, pins, has_programs, former.as_ref())
        });
        let can_see = types.as_ref().is_some_and(|types| types.has_sockets);
        let tcp = if limits.tcp && can_see {
            Tcp::start(&mut ebpf, &kernel_types, pins, epoch, former.as_ref())
        } else {
            pins.into_iter().for_each(tcp::leave);
            None
        };
        let (tcp_counting, tcp, walk) = tcp.map_or((None, None, None), |tcp| {
            (Some(tcp.counting), Some(tcp.map), Some(tcp.walk))
        });
        let mut missed = Missed::default();
        for link in tcp_counting.iter().flat_map(TcpCounting::links) {
            missed.watch_link("tcp", link);
        }
        if let Some(counter) = &drop_counter {
            missed.watch_link("kfree_skb", counter.link());
        }
        let counters = take(&mut ebpf, "COUNTERS")?;
        let Map::Array(counters) = &counters else {
            return Err(anyhow!("COUNTERS is no array"));
        };
        let views = match take(&mut ebpf, "VIEWS")? {
            Map::ArrayOfMaps(data) if limits.scopes => Some(data.fd().as_fd().try_clone_to_owned()?),
            Map::ArrayOfMaps(_unused) => None,
            _ => return Err(anyhow!("VIEWS is no array of maps")),
        };
        let counters = CounterBanks::map(counters.fd().as_fd(), views, limits.slots, cpus)
            .context("map the counters into the daemon")?;
        let Map::Array(uplinks) = &take(&mut ebpf, uplinks::MAP)? else {
            return Err(anyhow!("UPLINKS is no array"));
        };
        let uplinks = UplinkBanks::map(uplinks.fd().as_fd(), cpus).context("map the counters of uplinks")?;
        let drops = drop_map(take(&mut ebpf, "DROPS")?, cpus)?;
        let mut known_ports: Array<_, u64> = take(&mut ebpf, "PORTS")?.try_into()?;
        for (word, services) in (0..).zip(ports()) {
            known_ports.set(word, services, 0)?;
        }
        let flows = flow_map(take(&mut ebpf, "FLOWS")?, limits, cpus)?;
        let index_overflow: HashMap<_, InterfaceKey, u32> = take(&mut ebpf, "INDEX_OVERFLOW")?.try_into()?;
        Ok(Self {
            counters,
            drops: drop_counter.is_some().then_some(drops),
            flows,
            tcp,
            walk,
            peers: Peers::new(&mut ebpf)?,
            owners: Owners::new(&mut ebpf)?,
            missed,
            uplinks: Arc::new(uplinks),
            limits,
            reasons: types.map_or_else(DropReasons::none, |types| types.reasons),
            program,
            index: take(&mut ebpf, "INDEX")?.try_into()?,
            errors: take(&mut ebpf, "ERRORS")?.try_into()?,
            overflowed: index_overflow.keys().count() as u64,
            index_overflow,
            classifiers,
            drop_counter,
            tcp_counting,
            pins: pins.cloned(),
            template: Arc::new(template),
            ebpf,
        })
    }

    /// Descriptors of `dtm_transmit` and `dtm_receive`, for an attacher of its own.
    pub fn classifiers(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (transmit, receive) = &self.classifiers;
        Ok((transmit.try_clone()?, receive.try_clone()?))
    }

    /// Leaves the tracepoints attached for whoever comes next, where they have names.
    pub fn keep(mut self) {
        if let Some(counter) = self.drop_counter {
            counter.keep();
        }
        if let Some(counting) = &mut self.tcp_counting {
            counting.keep();
        }
    }

    /// Takes away the names of the tracepoints' links: they go with this process.
    pub fn unpin(&mut self) {
        self.pins = None;
        if let Some(counter) = &mut self.drop_counter {
            counter.unpin();
        }
        if let Some(counting) = &mut self.tcp_counting {
            counting.unpin();
        }
    }

    /// Has all connections of sockets below a control group tell of themselves, the hierarchy's root. Without one they are not
    /// counted at all.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the program: they are not counted either.
    ///
    /// # Minimum kernel version
    ///
    /// 5.9 (`bpf_skc_to_tcp_sock`).
    pub fn listen_to_connections(&mut self, group: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
        let listening = match (&mut self.tcp_counting, group) {
            (Some(counting), Some(group)) => counting.listen(&mut self.ebpf, self.pins.as_ref(), group),
            (Some(_counting), None) => Err(anyhow!("there is no cgroup v2 hierarchy")),
            (None, _) => Ok(()),
        };
        if listening.is_err() {
            self.tcp_counting = None;
            self.tcp = None;
            self.walk = None;
        }
        listening
    }

    /// What counts the connections there are; none where they are not counted at all.
    ///
    /// To be called once.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses the program: how many there were before dtm came is not known.
    ///
    /// # Minimum kernel version
    ///
    /// 5.9; round trips of connections that are older than dtm from 6.12.
    pub fn socket_walk(&mut self) -> anyhow::Result<Option<SocketWalk>> {
        self.walk.take().transpose()
    }

    /// How many programs are attached that count connections: to tracepoints, and to the root of the control groups.
    pub fn tcp_programs(&self) -> (u64, u64) {
        self.tcp_counting.as_ref().map_or((0, 0), TcpCounting::attached)
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
        let watch = CgroupWatch::start(&mut self.ebpf)?;
        for name in ["dtm_cgroup_mkdir", "dtm_cgroup_rmdir"] {
            if let Some(program) = self.ebpf.program(name) {
                let program = program.fd()?.as_fd().try_clone_to_owned()?;
                self.missed.watch("cgroups", program);
            }
        }
        Ok(watch)
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

    /// How often each of the kernel side's own errors happened.
    pub fn errors(&self) -> Result<Vec<(&'static str, u64)>, MapError> {
        (0..ERROR_KINDS)
            .zip(ERROR_NAMES)
            .map(|(kind, name)| Ok((name, self.errors.get(&kind, 0)?.iter().sum())))
            .collect()
    }

    /// How full the maps are that are not counted by their owner.
    pub fn map_use(&self, drops: u64, flows: u64) -> impl Iterator<Item = MapUse> {
        let uses = [
            ("index_overflow", self.overflowed, INDEX_OVERFLOW_ENTRIES.into()),
            ("drops", drops, DROPS_ENTRIES.into()),
            ("flows", flows, self.limits.pairs.into()),
        ];
        let tcp = self.tcp.as_ref().map(|map| {
            let (entries, limit) = map.usage();
            ("tcp", entries, limit)
        });
        uses.into_iter()
            .chain(self.owners.map_use())
            .chain(self.peers.map_use())
            .chain(tcp)
    }
}

/// The drops.
fn drop_map(map: Map, cpus: usize) -> anyhow::Result<DropMap> {
    let Map::PerCpuHashMap(data) = &map else {
        return Err(anyhow!("DROPS is no per-CPU hash"));
    };
    let fd = data.fd().as_fd().try_clone_to_owned()?;
    Ok(DropMap::new(map.try_into()?, fd, cpus))
}

/// The matrix, where it is counted.
fn flow_map(map: Map, limits: Limits, cpus: usize) -> anyhow::Result<Option<FlowMap>> {
    match &map {
        Map::PerCpuHashMap(data) if limits.pairs > 0 => {
            let fd = data.fd().as_fd().try_clone_to_owned()?;
            Ok(Some(FlowMap::new(map.try_into()?, fd, cpus)?))
        }
        Map::PerCpuHashMap(_unused) => Ok(None),
        _ => Err(anyhow!("FLOWS is no per-CPU hash")),
    }
}

/// The number of these programs among those that may count connections; 0 is nobody's.
fn epoch(program: u64) -> u32 {
    (program as u32).max(1)
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

/// Whether something was removed; that it was not there is no error.
pub(super) fn removed(result: Result<(), MapError>) -> Result<bool, MapError> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
