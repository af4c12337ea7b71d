//! Going on with what an earlier dtm has left: with its maps where they are what this one's would be, else with what they
//! say.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::atomic::Ordering,
};

use anyhow::Context as _;
use dtm_common::{
    drops::{DropKey, DropTally},
    flows::FlowKey,
    tcp::TcpCounters,
    traffic::Tally,
    views::Volume,
};

use super::{
    Kernel, Limits,
    kernel::{Ground, note_symbols},
    load::shapes,
    mapping::Mapping,
    pins::Pins,
    record::{self, KernelRecord, TallyRecord},
    sys::{self, map_shape},
    views::{ViewBanks, chunks},
};
use crate::{
    journal::{Entries, Journal},
    net::{netns_cookie, own_netns_inode},
    tracker::Traffic,
};

/// What outlives this process.
pub struct Kept {
    /// Where it is.
    pub pins: Pins,
    /// Whose it is.
    pub journal: Journal<Pins>,
    /// What was left by an earlier one.
    pub found: Option<Found>,
    /// Other runs, of which nothing is of use.
    pub obsolete: Vec<Pins>,
}

/// What an earlier process has left.
pub struct Found {
    /// What its journal says.
    pub entries: Entries,
    /// When it was last there, by the clock of who wrote it.
    pub seen: u64,
    /// Maps that are not gone on with and still of use.
    pub former: Option<Former>,
    /// Whether they are what the entries are of: slots are others in this run's maps. Else an earlier process had begun to
    /// leave them.
    pub is_moved: bool,
}

/// A run whose maps are of another shape.
pub struct Former {
    /// Where it is.
    pub pins: Pins,
    record: KernelRecord,
    counters: Option<Mapping>,
    views: Option<ViewBanks>,
    drops: Option<OwnedFd>,
    flows: Option<OwnedFd>,
    tcp: Option<OwnedFd>,
}

/// The journal's name for the run whose maps are still of use beside its own.
pub const FORMER: &str = "former";

/// A run that was left.
struct Left {
    pins: Pins,
    journal: Journal<Pins>,
    entries: Entries,
    record: KernelRecord,
}

impl Kernel {
    /// As [`load`](Self::load), in a BPF file system: over what is there already, where that can be gone on with.
    ///
    /// # Errors
    ///
    /// Where something cannot be pinned there, and those of [`load`](Self::load). Nothing new is left there then.
    pub fn take_over(btf: &Path, limits: Limits, bpffs: &Path) -> anyhow::Result<(Self, Kept)> {
        let netns = own_netns_inode().context("read the inode of dtm's own network namespace")?;
        let mut obsolete = Vec::new();
        let left = left(bpffs, netns, &mut obsolete);
        // The kernel is the same: no BPF file system outlives it.
        let handlers = left.as_ref().and_then(|left| left.record.handlers);
        let (mut ground, symbols) = Ground::new(btf, limits, handlers)?;
        let program = record::identity(&ground.constants);
        let going_on = match &left {
            Some(left) => left.pins.is_current() && has_shapes(&left.pins, limits, ground.cpus)?,
            None => false,
        };
        let pins = match &left {
            Some(left) if going_on => left.pins.clone(),
            _ => Pins::begin(bpffs, netns).context("make directories for pins")?,
        };
        let left_before = left
            .as_ref()
            .filter(|_left| going_on)
            .and_then(|left| former_of(&left.entries, &mut obsolete));
        ground.pins = Some(&pins);
        ground.has_programs = going_on && left.as_ref().is_some_and(|left| left.record.program == program);
        let replaced = left.as_ref().filter(|_left| !going_on);
        ground.former = replaced.map(|left| left.pins.clone());
        let cpus = ground.cpus;
        let load = || {
            let kernel = Self::on(ground, btf)?;
            let (journal, found) = match left {
                Some(Left { journal, entries, .. }) if going_on => {
                    let seen = journal.seen();
                    let found = Found {
                        entries,
                        seen,
                        former: left_before,
                        is_moved: false,
                    };
                    (journal, Some(found))
                }
                left => {
                    let journal = Journal::new(pins.clone()).context("make a journal")?;
                    (journal, left.map(Found::of_other_layout))
                }
            };
            anyhow::Ok((kernel, journal, found))
        };
        match load() {
            Ok((kernel, mut journal, found)) => {
                note_symbols(&symbols);
                pins.forget_other_programs(program);
                let record = KernelRecord::new(program, symbols.ok(), limits.slots, cpus);
                journal.put(record::NAME, &serde_json::to_vec(&record)?)?;
                let kept = Kept {
                    pins,
                    journal,
                    found,
                    obsolete,
                };
                Ok((kernel, kept))
            }
            Err(error) => {
                if !going_on && let Err(error) = pins.remove() {
                    tracing::debug!(%error, "cannot remove pins that were just made");
                }
                Err(error)
            }
        }
    }
}

/// The run to go on with, of this layout if there is one; the others are obsolete.
fn left(bpffs: &Path, netns: u32, obsolete: &mut Vec<Pins>) -> Option<Left> {
    let cookie = netns_cookie().ok();
    let mut all = Vec::new();
    for pins in Pins::find(bpffs, netns) {
        match read(&pins) {
            Ok((journal, entries, record)) if record.netns_cookie == cookie => {
                all.push(Left {
                    pins,
                    journal,
                    entries,
                    record,
                });
            }
            // The namespace of this number is another by now.
            Ok(_other) => obsolete.push(pins),
            Err(error) => {
                let (directory, error) = (pins.directory().display(), format_args!("{error:#}"));
                tracing::info!(%directory, error, "what is left there says nothing");
                obsolete.push(pins);
            }
        }
    }
    all.sort_by_key(|left| (left.pins.is_current(), left.journal.seen()));
    let chosen = all.pop();
    obsolete.extend(all.into_iter().map(|left| left.pins));
    chosen
}

fn read(pins: &Pins) -> anyhow::Result<(Journal<Pins>, Entries, KernelRecord)> {
    let (journal, entries) = pins.journal().context("open the journal")?;
    let record = entries.get(record::NAME).context("it does not say whose it is")?;
    let record = serde_json::from_slice(record).context("it is of a dtm that this one does not know")?;
    Ok((journal, entries, record))
}

/// Whether every map is what this dtm's would be.
fn has_shapes(pins: &Pins, limits: Limits, cpus: usize) -> anyhow::Result<bool> {
    for (name, shape) in shapes(limits, cpus)? {
        let found = sys::open(&pins.map(name)).and_then(|map| map_shape(map.as_fd()));
        match found {
            Ok(found) if found == shape => {}
            Ok(found) => {
                tracing::info!(name, ?found, wanted = ?shape, "a map is of another shape");
                return Ok(false);
            }
            Err(error) => {
                tracing::info!(name, %error, "a map cannot be gone on with");
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Found {
    fn of_other_layout(left: Left) -> Self {
        let Left {
            pins,
            journal,
            entries,
            record,
        } = left;
        Self {
            entries,
            seen: journal.seen(),
            former: Some(Former::new(pins, record)),
            is_moved: true,
        }
    }
}

/// The maps that an earlier process had begun to leave, out of the runs that are of no other use.
fn former_of(entries: &Entries, obsolete: &mut Vec<Pins>) -> Option<Former> {
    let name: String = serde_json::from_slice(entries.get(FORMER)?).ok()?;
    let at = obsolete.iter().position(|pins| pins.name() == name)?;
    let (_journal, _entries, record) = read(&obsolete[at]).ok()?;
    Some(Former::new(obsolete.swap_remove(at), record))
}

impl Former {
    fn new(pins: Pins, record: KernelRecord) -> Self {
        let bytes = record.banks * record.slots as usize * record.slot.size;
        let counters = sys::open(&pins.map("COUNTERS")).and_then(|map| Mapping::new(map.as_fd(), bytes));
        let counters = counters
            .inspect_err(|error| tracing::warn!(%error, "cannot read what an earlier dtm has counted"))
            .ok();
        let views = record.views_are_own().then(|| {
            let map = sys::open(&pins.map("VIEWS"))?;
            ViewBanks::open(map, chunks(record.slots), record.banks)
        });
        let views = views.transpose();
        let views = views
            .inspect_err(
                |error| tracing::warn!(%error, "cannot read what an earlier dtm has counted by scope"),
            )
            .ok();
        Self {
            drops: sys::open(&pins.map("DROPS")).ok(),
            flows: sys::open(&pins.map("FLOWS")).ok(),
            tcp: sys::open(&pins.map("TCP")).ok(),
            views: views.flatten(),
            counters,
            record,
            pins,
        }
    }

    /// What a slot has counted.
    pub fn read(&self, slot: u32) -> Traffic {
        let KernelRecord {
            slots,
            banks,
            slot: layout,
            ..
        } = self.record;
        let mut sum = Traffic::default();
        let Some(counters) = self.counters.as_ref().filter(|_counters| slot < slots) else {
            return sum;
        };
        for bank in 0..banks {
            let start = (bank * slots as usize + slot as usize) * layout.size;
            let word = |at: usize| counters.words()[(start + at) / size_of::<u64>()].load(Ordering::Relaxed);
            let tally = |at: TallyRecord| Tally {
                bytes: word(at.bytes),
                packets: word(at.packets),
                wire_bytes: word(at.wire_bytes),
            };
            sum += Traffic {
                receive: tally(layout.receive),
                transmit: tally(layout.transmit),
                ..Traffic::default()
            };
        }
        if let Some(views) = &self.views {
            sum.views = views.read(slot);
        }
        sum
    }

    /// Who sent how much to whom, where that can be read.
    pub fn flows(&self) -> io::Result<HashMap<FlowKey, Volume>> {
        let Some(map) = &self.flows else {
            return Ok(HashMap::new());
        };
        let shape = map_shape(map.as_fd())?;
        if (shape.key_size as usize, shape.value_size as usize) != (size_of::<FlowKey>(), size_of::<Volume>())
        {
            return Ok(HashMap::new());
        }
        super::flows::read(map.as_fd(), self.record.banks)
    }

    /// What containers' connections have done, by their numbers, where that can be read.
    pub fn tcp(&self) -> io::Result<HashMap<u32, TcpCounters>> {
        let Some(map) = &self.tcp else {
            return Ok(HashMap::new());
        };
        let shape = map_shape(map.as_fd())?;
        if (shape.key_size as usize, shape.value_size as usize)
            != (size_of::<u32>(), size_of::<TcpCounters>())
        {
            return Ok(HashMap::new());
        }
        super::tcp::read(map.as_fd())
    }

    /// What was dropped, where that can be read.
    pub fn drops(&self) -> io::Result<Vec<(DropKey, DropTally)>> {
        let Some(map) = &self.drops else {
            return Ok(Vec::new());
        };
        let shape = map_shape(map.as_fd())?;
        if (shape.key_size as usize, shape.value_size as usize)
            != (size_of::<DropKey>(), size_of::<DropTally>())
        {
            return Ok(Vec::new());
        }
        super::drops::read(map.as_fd(), self.record.banks)
    }

    /// Where it is.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The version of its layout.
    pub fn layout(&self) -> u32 {
        self.record.layout
    }
}
