//! Programs that are loaded before they are needed: each pair counts into a slot of its own, and the verifier takes some
//! ten milliseconds for each program, in which a container could have sent its first packets.

mod pairs;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use tokio::sync::mpsc as tokio_mpsc;

use dtm_common::traffic::Direction;

pub(super) use pairs::{Lasting, Pair, Programs};

use super::{
    Tracker,
    attaching::{Attached, Generation, Report},
    slots::REST,
};
use crate::bpf::{AttachError, Attachment, Counts, Pin, ProgramName, Template};

/// How many pairs of each kind are kept ready: as many containers may start within a second or two.
const READY: usize = 16;

/// One of so many slots may be a spare one: where there are few, interfaces need them all.
const SHARE: u32 = 128;

/// How far behind everybody else loading ahead comes (`nice`, of its thread alone).
const NICE: i32 = 10;

/// What the programs are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A control group.
    Group,
    /// A container's own device.
    Device,
}

/// Programs that were loaded ahead.
#[derive(Debug)]
pub(crate) struct Loaded {
    kind: Kind,
    slot: u32,
    result: anyhow::Result<Programs>,
}

impl Kind {
    /// Loads programs that count into `slot`.
    pub(super) fn load(self, template: &Template, slot: u32) -> anyhow::Result<Programs> {
        let programs = match self {
            Self::Group => template.cgroup(slot),
            Self::Device => template.classifiers(Counts::Slot(slot)),
        };
        programs.map(Pair::new).map(Arc::new)
    }
}

/// The spare programs of one kind.
#[derive(Default)]
struct Pool {
    ready: VecDeque<(u32, Programs)>,
    /// Given back, in order of their time.
    resting: VecDeque<(Instant, u32, Programs)>,
    in_use: HashMap<u32, Programs>,
    loading: usize,
}

impl Pool {
    fn idle(&self) -> usize {
        self.ready.len() + self.resting.len() + self.loading
    }

    /// Those that can be had without waiting for others to have rested.
    fn at_hand(&self) -> usize {
        self.ready.len() + self.loading
    }

    fn wake(&mut self, now: Instant) {
        while let Some((since, _slot, _programs)) = self.resting.front()
            && now.duration_since(*since) >= REST
            && let Some((_since, slot, programs)) = self.resting.pop_front()
        {
            self.ready.push_back((slot, programs));
        }
    }
}

/// All of them.
pub(super) struct Spares {
    groups: Pool,
    devices: Pool,
    /// The last generation there was when it was last looked whether enough are ready; none before that.
    last_generation: Option<u64>,
    orders: mpsc::Sender<LoadOrder>,
}

/// What the thread is asked to do.
enum LoadOrder {
    /// Load a pair that counts into this slot.
    Load(Kind, u32),
    /// Load one, and have an attachment of an earlier dtm hold it.
    Renew {
        kind: Kind,
        generation: Generation,
        attachment: Attachment,
    },
}

impl Spares {
    /// Starts the thread that loads.
    pub(super) fn start(
        template: Arc<Template>,
        lasting: Option<Lasting>,
        report: tokio_mpsc::Sender<Report>,
    ) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel::<LoadOrder>();
        thread::Builder::new()
            .name("dtm-load".to_owned())
            .spawn(move || {
                come_last();
                for order in queue {
                    if report
                        .blocking_send(order.follow(&template, lasting.as_ref()))
                        .is_err()
                    {
                        return;
                    }
                }
            })?;
        Ok(Self {
            groups: Pool::default(),
            devices: Pool::default(),
            last_generation: None,
            orders,
        })
    }

    fn pool(&mut self, kind: Kind) -> &mut Pool {
        match kind {
            Kind::Group => &mut self.groups,
            Kind::Device => &mut self.devices,
        }
    }

    /// The programs of a slot, where they are spare ones.
    pub(super) fn programs(&mut self, kind: Kind, slot: u32) -> Option<Programs> {
        self.pool(kind).in_use.get(&slot).cloned()
    }

    /// Whether all are loaded that were wanted at the start.
    pub(super) fn are_there(&self) -> bool {
        self.last_generation.is_some() && self.groups.loading + self.devices.loading == 0
    }

    /// Leaves all of them loaded for whoever comes next.
    pub(super) fn keep(&self) {
        for programs in self.all() {
            programs.keep();
        }
    }

    /// Has none of them outlive this process.
    pub(super) fn unpin(&self) {
        for programs in self.all() {
            drop(programs.take_pins());
        }
    }

    fn all(&self) -> impl Iterator<Item = &Programs> {
        [&self.groups, &self.devices].into_iter().flat_map(|pool| {
            let ready = pool.ready.iter().map(|(_slot, programs)| programs);
            let resting = pool.resting.iter().map(|(_since, _slot, programs)| programs);
            ready.chain(resting).chain(pool.in_use.values())
        })
    }

    /// Goes on with the programs that an earlier process has left loaded: `is_in_use` says whether something counts into
    /// a slot. Says which slots they take.
    pub(super) fn restore(&mut self, lasting: &Lasting, is_in_use: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut found: BTreeMap<(Kind, u32), [Option<PathBuf>; 2]> = BTreeMap::new();
        for (name, path) in lasting.pins.spares() {
            let ProgramName {
                is_of_group,
                slot,
                direction,
                program,
            } = name;
            if program != lasting.program {
                // Another dtm's.
                drop(Pin::open(path));
                continue;
            }
            let kind = if is_of_group { Kind::Group } else { Kind::Device };
            let pair = found.entry((kind, slot)).or_default();
            match direction {
                Direction::Transmit => pair[0] = Some(path),
                Direction::Receive => pair[1] = Some(path),
            }
        }
        let mut slots = Vec::new();
        for ((kind, slot), pair) in found {
            let programs = match pair {
                [Some(transmit), Some(receive)] => Pair::open(transmit, receive),
                // One that was killed had loaded half of it.
                half => {
                    half.into_iter().flatten().for_each(|path| drop(Pin::open(path)));
                    continue;
                }
            };
            let programs = match programs {
                Ok(programs) => Arc::new(programs),
                Err(error) => {
                    tracing::debug!(slot, %error, "programs that were loaded ahead are gone");
                    continue;
                }
            };
            let pool = self.pool(kind);
            if is_in_use(slot) {
                pool.in_use.insert(slot, programs);
            } else {
                pool.ready.push_back((slot, programs));
                slots.push(slot);
            }
        }
        slots
    }

    /// Slots that are taken and that nothing counts into.
    pub(super) fn idle(&self) -> u64 {
        (self.groups.idle() + self.devices.idle()) as u64
    }

    /// Takes back the slot of spare programs that nothing is attached with any more since then, and says of which kind
    /// they are; none where it is no such slot.
    pub(super) fn give_back(&mut self, slot: u32, since: Instant) -> Option<Kind> {
        for kind in [Kind::Group, Kind::Device] {
            let pool = self.pool(kind);
            if let Some(programs) = pool.in_use.remove(&slot) {
                pool.resting.push_back((since, slot, programs));
                return Some(kind);
            }
        }
        None
    }
}

impl LoadOrder {
    fn follow(self, template: &Template, lasting: Option<&Lasting>) -> Report {
        match self {
            Self::Load(kind, slot) => {
                let result = kind.load(template, slot);
                if let (Ok(programs), Some(lasting)) = (&result, lasting)
                    && let Err(error) = programs.pin(lasting, kind, slot)
                {
                    tracing::warn!(%error, "programs that are loaded ahead cannot be pinned");
                }
                Report::Loaded(Loaded { kind, slot, result })
            }
            Self::Renew {
                kind,
                generation,
                mut attachment,
            } => {
                let programs = kind.load(template, generation.slot).map_err(AttachError::Program);
                let result = programs.and_then(move |programs| {
                    // One that holds nothing any more is gone with its group or device.
                    match attachment.update(programs.transmit.as_fd(), programs.receive.as_fd()) {
                        Ok(()) => {
                            generation.pin(&mut attachment, lasting.map(|lasting| &lasting.pins));
                            Ok(attachment)
                        }
                        Err(_nothing_is_held) => Err(AttachError::Gone),
                    }
                });
                Report::Attached(Attached { generation, result })
            }
        }
    }
}

/// Lets everybody else have a processor first: the verifier keeps one busy for a third of a second at the start, when a
/// container that ends may have to be recognised within milliseconds.
fn come_last() {
    let own = Some(rustix::thread::gettid());
    if let Err(error) = rustix::process::setpriority_process(own, NICE) {
        tracing::debug!(%error, "programs are loaded ahead at the daemon's own priority");
    }
}

impl Tracker {
    /// A slot, and programs that count into it where some are ready; none where every slot is in use.
    pub(super) fn take_spare(&mut self, kind: Kind, now: Instant) -> Option<(u32, Option<Programs>)> {
        let pool = self.spares.pool(kind);
        pool.wake(now);
        let Some((slot, programs)) = pool.ready.pop_front() else {
            return self.slots.take(now).map(|slot| (slot, None));
        };
        pool.in_use.insert(slot, Arc::clone(&programs));
        Some((slot, Some(programs)))
    }

    /// How many pairs of a kind are to be ready.
    fn wanted_spares(&self, kind: Kind) -> usize {
        let is_wanted = match kind {
            Kind::Group => self.groups.are_there(),
            Kind::Device => self.has_device_networks(),
        };
        let share = (self.slots.limit() / SHARE) as usize;
        if is_wanted { READY.min(share) } else { 0 }
    }

    /// Has programs loaded where too few are ready, and lets those go that are too many.
    ///
    /// While containers are born only as many as may be needed soon: the verifier keeps a processor from those that attach.
    pub(super) fn keep_spares(&mut self, now: Instant) {
        let before = self.spares.last_generation.replace(self.last_generation);
        let is_calm = before.is_none_or(|before| before == self.last_generation);
        for kind in [Kind::Group, Kind::Device] {
            let wanted = self.wanted_spares(kind);
            self.spares.pool(kind).wake(now);
            loop {
                let pool = self.spares.pool(kind);
                let is_enough = if is_calm {
                    pool.idle() >= wanted
                } else {
                    pool.at_hand() >= wanted.div_ceil(2)
                };
                if is_enough {
                    break;
                }
                let Some(slot) = self.slots.take(now) else { break };
                if self.spares.orders.send(LoadOrder::Load(kind, slot)).is_err() {
                    tracing::error!("the thread that loads programs has ended");
                    self.slots.give_back(slot, now);
                    break;
                }
                self.spares.pool(kind).loading += 1;
            }
            self.trim_spares(kind, now);
        }
    }

    /// Lets programs go that are too many: others were loaded while these were in use or had to rest. Half as many as are
    /// wanted stay at hand.
    pub(super) fn trim_spares(&mut self, kind: Kind, now: Instant) {
        let wanted = self.wanted_spares(kind);
        let pool = self.spares.pool(kind);
        let mut surplus = Vec::new();
        while pool.idle() > wanted
            && pool.ready.len() > wanted.div_ceil(2)
            && let Some((slot, _programs)) = pool.ready.pop_back()
        {
            surplus.push(slot);
        }
        for slot in surplus {
            self.slots.give_back(slot, now);
        }
    }

    /// Has links of an earlier dtm hold this one's programs.
    pub(super) fn renew_links(&self, kind: Kind, generation: Generation, attachment: Attachment) {
        let order = LoadOrder::Renew {
            kind,
            generation,
            attachment,
        };
        if self.spares.orders.send(order).is_err() {
            tracing::error!("the thread that loads programs has ended");
        }
    }

    /// Takes in programs that were loaded.
    pub(super) fn on_loaded(&mut self, loaded: Loaded) {
        let Loaded { kind, slot, result } = loaded;
        let pool = self.spares.pool(kind);
        pool.loading -= 1;
        match result {
            Ok(programs) => pool.ready.push_back((slot, programs)),
            Err(error) => {
                let error = format_args!("{error:#}");
                tracing::warn!(?kind, error, "cannot load programs ahead");
                self.slots.give_back(slot, Instant::now());
            }
        }
        self.trim_spares(kind, Instant::now());
        self.note_readiness();
    }
}
