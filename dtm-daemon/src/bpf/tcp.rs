//! How TCP connections fare: the map of what each container's have done, and what keeps it counted.
//!
//! A tracepoint's link cannot be given another program. A newer dtm attaches its own beside, and one number in a map says
//! whose count: nothing is counted twice or not at all while one takes over from the other.

use std::{
    collections::HashMap as StdHashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, anyhow};
use aya::{
    Btf, Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::{BtfTracePoint, Iter, SockOps},
};
use dtm_common::tcp::{TCP_ENTRIES, TcpCounters, UNTOLD};

use super::{
    held::Held,
    kernel::{removed, take},
    pins::Pins,
    sys,
    types::Types,
};

/// The programs and their tracepoints. A link's pin has its tracepoint's name.
const TRACEPOINTS: [(&str, &str); 3] = [
    ("dtm_tcp_retransmit_synack", "tcp_retransmit_synack"),
    ("dtm_tcp_receive_reset", "tcp_receive_reset"),
    ("dtm_tcp_send_reset", "tcp_send_reset"),
];

/// The program that connections tell of themselves, and the pin of its link.
const TOLD: (&str, &str) = ("dtm_sock_ops", "sock_ops");

/// The map of whose programs count.
const RUNNING: &str = "TCP_RUNNING";

/// What each container's connections have done, by its number.
pub struct TcpMap {
    map: HashMap<MapData, u32, TcpCounters>,
    /// The same map; aya keeps its own descriptor to itself.
    fd: OwnedFd,
    entries: u64,
}

impl TcpMap {
    pub(super) fn new(map: Map) -> anyhow::Result<Self> {
        let Map::HashMap(data) = &map else {
            return Err(anyhow!("TCP is no hash"));
        };
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        let map: HashMap<_, u32, TcpCounters> = map.try_into()?;
        let entries = map.keys().count() as u64;
        Ok(Self { map, fd, entries })
    }

    /// Every container's.
    pub fn read(&self) -> io::Result<StdHashMap<u32, TcpCounters>> {
        read(self.fd.as_fd())
    }

    /// Has the connections of the container with this number counted, from 0 unless they are already.
    pub fn enter(&mut self, number: u32) -> Result<(), MapError> {
        match self.map.get(&number, 0) {
            Err(MapError::KeyNotFound) => self.add(number, TcpCounters::default()),
            known => known.map(drop),
        }
    }

    /// Enters what was counted elsewhere.
    pub fn add(&mut self, number: u32, counters: TcpCounters) -> Result<(), MapError> {
        self.map.insert(number, counters, 0)?;
        self.entries += 1;
        Ok(())
    }

    /// Forgets a container. That it is not there is no error.
    pub fn remove(&mut self, number: u32) -> Result<(), MapError> {
        if removed(self.map.remove(&number))? {
            self.entries -= 1;
        }
        Ok(())
    }

    /// Entries in use, and the most there can be.
    pub fn usage(&self) -> (u64, u64) {
        (self.entries, TCP_ENTRIES.into())
    }
}

/// Counts the connections there are now, and has them tell of their round trips.
pub struct SocketWalk {
    link: OwnedFd,
    /// How many each container has, for one walk.
    counts: HashMap<MapData, u32, u64>,
    /// What has come and gone.
    counters: HashMap<MapData, u32, TcpCounters>,
}

/// How often a walk is made before connections that come and go all the while are left as they are.
const WALKS: usize = 16;

impl SocketWalk {
    fn new(ebpf: &mut Ebpf, types: &Types, map: &TcpMap) -> anyhow::Result<Self> {
        let program: &mut Iter = program(ebpf, "dtm_tcp_sockets")?.try_into()?;
        program.load("tcp", types.get()?)?;
        let link = sys::attach_iterator(program.fd()?.as_fd())?;
        let counters = MapData::from_fd(map.fd.try_clone()?)?;
        Ok(Self {
            link,
            counts: take(ebpf, "ESTABLISHED_NOW")?.try_into()?,
            counters: Map::HashMap(counters).try_into()?,
        })
    }

    /// How many connections the container with this number has in the calling thread's namespace beyond what
    /// [`TcpCounters::current`] says, wrapping as that does. None where it is not counted for, where so many come and go that
    /// no walk is of one moment, and before Linux 6.12 as long as there are some that are older than dtm: they will not tell
    /// when they end.
    pub fn uncounted(&mut self, number: u32) -> anyhow::Result<Option<u64>> {
        for _ in 0..WALKS {
            let current = |walk: &Self| {
                walk.counters
                    .get(&number, 0)
                    .ok()
                    .map(|counters| counters.current)
            };
            let Some(before) = current(self) else {
                return Ok(None);
            };
            self.counts.insert(number, 0, 0)?;
            let walked = sys::iterate(self.link.as_fd());
            let found = self.counts.get(&number, 0);
            self.counts.remove(&number)?;
            walked.context("walk over the sockets")?;
            if current(self) == Some(before) {
                let found = found?;
                return Ok((found < UNTOLD).then(|| found.wrapping_sub(before)));
            }
        }
        Ok(None)
    }
}

/// Every entry of such a map.
pub(super) fn read(map: BorrowedFd<'_>) -> io::Result<StdHashMap<u32, TcpCounters>> {
    let mut entries = StdHashMap::new();
    #[expect(unsafe_code, reason = "the key and value types are promised to be the map's")]
    // SAFETY: the map has exactly these types: dtm made it, or has looked at its shape. One that is not per CPU has one value
    // for each key.
    unsafe {
        sys::per_cpu_hash_entries(map, 1, |number: u32, counters: &[TcpCounters]| {
            entries.extend(counters.first().map(|counters| (number, *counters)));
        })?;
    }
    Ok(entries)
}

/// Connections are counted as long as it is there.
pub(super) struct TcpCounting {
    /// Whose programs count. Programs that are loaded later name it by the descriptor that this holds.
    _running: Array<MapData, u32>,
    links: Vec<Held>,
    told: Option<Held>,
}

impl TcpCounting {
    /// Attaches the programs, or goes on with those that an earlier process has left, where they are these; `epoch` is their
    /// number. Into the maps of `former` nothing is counted from that moment on.
    fn start(
        ebpf: &mut Ebpf,
        types: &Types,
        pins: Option<&Pins>,
        epoch: u32,
        former: Option<&Pins>,
    ) -> anyhow::Result<Self> {
        let mut running: Array<_, u32> = take(ebpf, RUNNING)?.try_into()?;
        let is_running = running.get(&0, 0)? == epoch;
        let open = |name: &str| Held::open(pins?.link(name)).ok();
        let mut left: Vec<_> = TRACEPOINTS.iter().map(|(_program, name)| open(name)).collect();
        if is_running && left.iter().all(Option::is_some) {
            let links = left.into_iter().flatten().collect();
            let told = open(TOLD.1);
            return Ok(Self {
                _running: running,
                links,
                told,
            });
        }
        let types = types.get()?;
        let mut links = Vec::new();
        for (program, tracepoint) in TRACEPOINTS {
            let attached = attach(ebpf, program, tracepoint, types);
            links.push(attached.with_context(|| format!("attach {program} to the tracepoint {tracepoint}"))?);
        }
        if let Some(former) = former
            && let Err(error) = end(former)
        {
            let error = format_args!("{error:#}");
            tracing::warn!(error, "an earlier dtm goes on counting connections for a moment");
        }
        running.set(0, epoch, 0)?;
        // What the earlier programs were told of is told to these.
        left.push(open(TOLD.1));
        for mut link in left.into_iter().flatten() {
            link.unpin();
        }
        if let Some(pins) = pins {
            for (link, (_program, name)) in links.iter_mut().zip(TRACEPOINTS) {
                link.pin(pins.link(name))
                    .with_context(|| format!("pin the tracepoint {name}"))?;
            }
        }
        Ok(Self {
            _running: running,
            links,
            told: None,
        })
    }

    /// Has all connections of sockets below a control group tell of themselves, the hierarchy's root.
    pub(super) fn listen(
        &mut self,
        ebpf: &mut Ebpf,
        pins: Option<&Pins>,
        group: BorrowedFd<'_>,
    ) -> anyhow::Result<()> {
        if self.told.is_some() {
            return Ok(());
        }
        let (name, pin) = TOLD;
        let program: &mut SockOps = program(ebpf, name)?.try_into()?;
        program.load()?;
        let mut link = Held::new(sys::attach_sock_ops(program.fd()?.as_fd(), group)?)?;
        if let Some(pins) = pins {
            link.pin(pins.link(pin)).context("pin the link of sock_ops")?;
        }
        self.told = Some(link);
        Ok(())
    }

    /// The links of the tracepoints.
    pub(super) fn links(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(Held::as_fd)
    }

    /// How many programs are attached: to tracepoints, and to the hierarchy's root.
    pub(super) fn attached(&self) -> (u64, u64) {
        (self.links.len() as u64, u64::from(self.told.is_some()))
    }

    /// Leaves it to whoever comes next, where it has a name.
    pub(super) fn keep(&mut self) {
        for link in self.links.iter_mut().chain(&mut self.told) {
            link.keep();
        }
    }

    /// Takes its names away: it ends with this process.
    pub(super) fn unpin(&mut self) {
        for link in self.links.iter_mut().chain(&mut self.told) {
            link.unpin();
        }
    }
}

/// Connections that are counted.
pub(super) struct Tcp {
    pub(super) counting: TcpCounting,
    pub(super) map: TcpMap,
    /// Why there is none, where the kernel refuses it.
    pub(super) walk: anyhow::Result<SocketWalk>,
}

impl Tcp {
    /// As [`TcpCounting::start`]; where the kernel refuses, a warning says so.
    pub(super) fn start(
        ebpf: &mut Ebpf,
        types: &Types,
        pins: Option<&Pins>,
        epoch: u32,
        former: Option<&Pins>,
    ) -> Option<Self> {
        let mut start = || {
            let map = TcpMap::new(take(ebpf, "TCP")?)?;
            let counting = TcpCounting::start(ebpf, types, pins, epoch, former)?;
            let walk = SocketWalk::new(ebpf, types, &map);
            Ok::<_, anyhow::Error>(Self { counting, map, walk })
        };
        start()
            .inspect_err(|error| {
                let error = format_args!("{error:#}");
                tracing::warn!(error, "TCP connections are not counted");
            })
            .ok()
    }
}

/// Ends what an earlier process has left, where connections are not counted any more.
pub(super) fn leave(pins: &Pins) {
    let names = TRACEPOINTS.iter().map(|(_program, name)| *name);
    for name in names.chain([TOLD.1]) {
        if let Ok(mut link) = Held::open(pins.link(name)) {
            link.unpin();
        }
    }
}

/// Has connections no longer counted into the maps of another run.
fn end(run: &Pins) -> anyhow::Result<()> {
    let map = MapData::from_pin(run.map(RUNNING)).context("open its map")?;
    let mut running: Array<_, u32> = Map::Array(map).try_into()?;
    running.set(0, 0, 0).context("set its map")
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut aya::programs::Program> {
    ebpf.program_mut(name)
        .ok_or_else(|| anyhow!("the kernel side has no program {name}"))
}

fn attach(ebpf: &mut Ebpf, name: &str, tracepoint: &str, btf: &Btf) -> anyhow::Result<Held> {
    let program: &mut BtfTracePoint = program(ebpf, name)?.try_into()?;
    program.load(tracepoint, btf)?;
    Ok(Held::new(sys::attach_tracepoint(program.fd()?.as_fd())?)?)
}
