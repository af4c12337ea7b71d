//! Keeping the journal: whatever becomes of this process, the next one finds the state as of the last event.
//!
//! What has changed is written together, a moment later: events come in bursts. A new interface is written at once, for it
//! counts at once, and everything is before anybody is shown it. So nothing that was shown is newer than the journal, and
//! nothing in it is half of a step. Going back by that moment loses nothing: the kernel's counters are not touched in it, and
//! a slot rests for longer before it is another's.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{drops::DropKey, index::InterfaceKey, views::Volume};
use serde::Serialize;

use super::{
    Tracker,
    drops::EndedSlot,
    flows::{End, Names},
    interfaces::{AttachmentState, DEVICES, Interface, OWN_NETNS},
    records::{
        Clock, ContainerRecord, EndRecord, EndedRecord, HiddenRecord, InterfaceRecord, NetworkRecord,
        OrphanRecord, PairRecord, TotalsRecord,
    },
    restoring::Left,
};
use crate::{
    bpf::{FORMER, Pins},
    docker::ContainerId,
    journal::Journal,
};

/// How the names of entries begin, by what they are of.
pub(super) const CONTAINER: &str = "container/";
pub(super) const NETWORK: &str = "network/";
pub(super) const INTERFACE: &str = "interface/";
pub(super) const ORPHAN: &str = "orphan/";
pub(super) const ENDED: &str = "ended/";
pub(super) const HIDDEN: &str = "hidden/";
pub(super) const END: &str = "end/";
pub(super) const PAIR: &str = "pair/";
/// The name of what there is one of.
pub(super) const TOTALS: &str = "totals";

/// How long changes may wait to be written. Less than a slot rests.
const DELAY: Duration = Duration::from_millis(100);

/// The journal, and what it has not been told yet.
pub(super) struct Recorder {
    pub(super) pins: Arc<Pins>,
    pub(super) journal: Journal<Pins>,
    clock: Clock,
    /// Orphans and ended slots it has.
    orphans: HashSet<u64>,
    ended: HashSet<u32>,
    hidden: HashSet<u32>,
    /// As they were last written.
    totals: TotalsRecord,
}

/// What has changed since the journal was last told, beside what notes its changes itself.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    /// Of orphans, ended slots, namespaces that hide networks, or maps of an earlier run: few, and looked through together.
    pub(super) rest: bool,
    /// Drops that are kept elsewhere and are to be removed from the kernel's map once the journal says so.
    pub(super) folded: HashSet<DropKey>,
    /// When it is to be written.
    due: Option<Instant>,
}

/// What is to be written now.
struct Changes {
    interfaces: HashSet<InterfaceKey>,
    containers: HashSet<ContainerId>,
    networks: HashSet<Arc<str>>,
    ends: HashSet<u32>,
    pairs: HashSet<Names>,
    rest: bool,
}

impl Unrecorded {
    /// When it is to be written, where there is anything.
    pub(super) fn due(&self) -> Option<tokio::time::Instant> {
        self.due.map(Into::into)
    }

    fn is_any(&self) -> bool {
        self.rest || !self.folded.is_empty()
    }
}

impl Recorder {
    /// `left` is what the journal says already.
    pub(super) fn new(pins: Arc<Pins>, journal: Journal<Pins>, clock: Clock, left: &Left) -> Self {
        Self {
            pins,
            journal,
            clock,
            orphans: left.orphans(),
            ended: left.ended(),
            hidden: left.hidden.iter().map(|hidden| hidden.number).collect(),
            totals: TotalsRecord::default(),
        }
    }

    fn put_totals(&mut self, totals: TotalsRecord) -> io::Result<()> {
        if totals != self.totals {
            self.put(TOTALS, &totals)?;
            self.totals = totals;
        }
        Ok(())
    }

    fn put(&mut self, name: &str, record: &impl Serialize) -> io::Result<()> {
        self.journal.put(name, &serde_json::to_vec(record)?)
    }

    /// Notes that somebody watches at this moment.
    pub(super) fn see(&mut self) {
        self.journal.see(Clock::new().now());
    }
}

impl Tracker {
    /// Writes down everything, for the first time.
    pub(super) fn record_all(&mut self) {
        self.unrecorded.rest = true;
        self.record();
    }

    /// Sees to it that what has changed is written down soon.
    pub(super) fn record_soon(&mut self) {
        match self.unrecorded.due {
            // Events that come without a pause let nothing else have its turn.
            Some(due) if due <= Instant::now() => self.record(),
            None if self.has_to_record() => self.unrecorded.due = Some(Instant::now() + DELAY),
            Some(_) | None => {}
        }
    }

    fn has_to_record(&self) -> bool {
        self.interfaces.is_changed()
            || self.containers.is_changed()
            || self.networks.is_changed()
            || self.flows.ends.is_changed()
            || self.flows.series.is_changed()
            || !self.flows.folded.is_empty()
            || self.unrecorded.is_any()
    }

    /// Writes down an interface that is new, before anything counts for it.
    pub(super) fn record_birth(&mut self, key: InterfaceKey) {
        self.commit(|tracker, recorder| {
            tracker.write_interface(recorder, key)?;
            recorder.put_totals(tracker.totals())
        });
    }

    /// Writes down what has changed.
    pub(super) fn record(&mut self) {
        self.unrecorded.due = None;
        if !self.has_to_record() {
            return;
        }
        // To be forgotten where nothing is written down, too.
        let changes = Changes {
            interfaces: self.interfaces.take_changed(),
            containers: self.containers.take_changed(),
            networks: self.networks.take_changed(),
            ends: self.flows.ends.take_changed(),
            pairs: self.flows.series.take_changed(),
            rest: std::mem::take(&mut self.unrecorded.rest),
        };
        self.commit(|tracker, recorder| tracker.write(recorder, changes));
        // Only now: whoever came in between would have added them twice.
        let folded = std::mem::take(&mut self.unrecorded.folded);
        self.remove_drops(&folded);
        let folded_flows = std::mem::take(&mut self.flows.folded);
        let has_folded = !folded.is_empty() || !folded_flows.is_empty();
        self.remove_folded_flows(folded_flows);
        if has_folded {
            // What is counted under the same keys from now on is not to be removed.
            self.commit(|tracker, recorder| recorder.put_totals(tracker.totals()));
        }
    }

    /// Makes what `write` writes valid at once, where there is a journal.
    fn commit(&mut self, write: impl FnOnce(&Self, &mut Recorder) -> io::Result<()>) {
        let Some(mut recorder) = self.recorder.take() else {
            return;
        };
        match write(self, &mut recorder).and_then(|()| recorder.journal.commit()) {
            Ok(()) => self.recorder = Some(recorder),
            Err(error) => self.give_up_recording(&recorder.pins, &error),
        }
    }

    fn write(&self, recorder: &mut Recorder, changes: Changes) -> io::Result<()> {
        let Changes {
            interfaces,
            containers,
            networks,
            ends,
            pairs,
            rest,
        } = changes;
        let clock = recorder.clock;
        for key in interfaces {
            self.write_interface(recorder, key)?;
        }
        for id in containers {
            let name = format!("{CONTAINER}{}", id.full());
            match self.containers.get(&id) {
                Some(tracked) => recorder.put(&name, &ContainerRecord::new(tracked, clock))?,
                None => recorder.journal.remove(&name)?,
            }
        }
        for id in networks {
            let name = format!("{NETWORK}{id}");
            match self.networks.kept(&id) {
                Some(kept) => recorder.put(&name, &NetworkRecord::new(kept, clock))?,
                None => recorder.journal.remove(&name)?,
            }
        }
        for number in ends {
            self.write_end(recorder, number)?;
        }
        for names in pairs {
            self.write_pair(recorder, &names)?;
        }
        if rest {
            self.write_orphans(recorder)?;
            self.write_ended(recorder)?;
            self.write_hidden(recorder)?;
            match &self.former {
                Some(former) => recorder.put(FORMER, &former.pins.name())?,
                None => recorder.journal.remove(FORMER)?,
            }
        }
        recorder.see();
        recorder.put_totals(self.totals())
    }

    fn write_interface(&self, recorder: &mut Recorder, key: InterfaceKey) -> io::Result<()> {
        let name = format!("{INTERFACE}{}/{}", key.netns, key.ifindex);
        let Some(interface) = self.interfaces.get(&key) else {
            return recorder.journal.remove(&name);
        };
        let place = match key.netns {
            DEVICES => self.devices.place(key),
            _ => (None, None),
        };
        let clock = recorder.clock;
        recorder.put(&name, &InterfaceRecord::new(interface, place, clock))
    }

    fn write_end(&self, recorder: &mut Recorder, number: u32) -> io::Result<()> {
        let name = format!("{END}{number}");
        let Some(End { name: of, ended }) = self.flows.ends.get(&number) else {
            return recorder.journal.remove(&name);
        };
        let record = EndRecord {
            number,
            name: Arc::clone(of),
            ended: ended.map(|ended| recorder.clock.number(ended)),
        };
        recorder.put(&name, &record)
    }

    fn write_pair(&self, recorder: &mut Recorder, names: &Names) -> io::Result<()> {
        let (source, destination) = names;
        let name = format!("{PAIR}{}/{source}/{destination}", source.len());
        let past = self.flows.series.get(names).map(|series| series.past);
        let Some(past) = past.filter(|past| *past != Volume::default()) else {
            return recorder.journal.remove(&name);
        };
        let record = PairRecord {
            source: Arc::clone(source),
            destination: Arc::clone(destination),
            past: (past.bytes, past.packets),
        };
        recorder.put(&name, &record)
    }

    fn write_orphans(&self, recorder: &mut Recorder) -> io::Result<()> {
        let mut gone = std::mem::take(&mut recorder.orphans);
        for orphan in &self.orphans {
            let number = orphan.generation.number;
            gone.remove(&number);
            recorder.orphans.insert(number);
            let record = OrphanRecord::new(orphan, recorder.clock);
            recorder.put(&format!("{ORPHAN}{number}"), &record)?;
        }
        gone.iter()
            .try_for_each(|number| recorder.journal.remove(&format!("{ORPHAN}{number}")))
    }

    fn write_ended(&self, recorder: &mut Recorder) -> io::Result<()> {
        let mut gone = std::mem::take(&mut recorder.ended);
        for ended in &self.ended_slots {
            let EndedSlot { slot, of, since } = ended;
            recorder.ended.insert(*slot);
            // What has ended is not changed any more.
            if gone.remove(slot) {
                continue;
            }
            let record = EndedRecord {
                slot: *slot,
                of: of.clone(),
                since: recorder.clock.number(*since),
            };
            recorder.put(&format!("{ENDED}{slot}"), &record)?;
        }
        gone.iter()
            .try_for_each(|slot| recorder.journal.remove(&format!("{ENDED}{slot}")))
    }

    fn write_hidden(&self, recorder: &mut Recorder) -> io::Result<()> {
        let mut gone = std::mem::take(&mut recorder.hidden);
        // Those that are not found again yet may still be.
        for number in self.left_hidden.keys() {
            gone.remove(number);
            recorder.hidden.insert(*number);
        }
        for (number, namespace) in &self.namespaces {
            let Some(inode) = namespace.inode.filter(|_inode| *number != OWN_NETNS) else {
                continue;
            };
            gone.remove(number);
            recorder.hidden.insert(*number);
            let record = HiddenRecord {
                number: *number,
                inode,
                cookie: namespace.cookie,
            };
            recorder.put(&format!("{HIDDEN}{number}"), &record)?;
        }
        gone.iter()
            .try_for_each(|number| recorder.journal.remove(&format!("{HIDDEN}{number}")))
    }

    fn totals(&self) -> TotalsRecord {
        let by_name = |counts: &BTreeMap<&'static str, u64>| {
            let counts = counts.iter().filter(|(_name, count)| **count != 0);
            counts.map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let past_drops = self.past_drops.iter();
        let folded = self.unrecorded.folded.iter();
        TotalsRecord {
            last_generation: self.last_generation,
            last_number: self.containers.last_number(),
            unattributed: self.unattributed,
            past_drops: past_drops
                .map(|(reason, (all, of_nobody))| (*reason, *all, *of_nobody))
                .collect(),
            attach_errors: by_name(&self.counts.attach_errors),
            map_update_errors: by_name(&self.counts.map_update_errors),
            events_lost: by_name(&self.counts.events_lost),
            reattached: self.counts.reattached,
            unwatched: self.unwatched.as_nanos() as u64,
            folded: folded
                .map(
                    |DropKey {
                         owner,
                         reason,
                         direction,
                     }| (*owner, *reason, *direction),
                )
                .collect(),
            folded_flows: self
                .flows
                .folded
                .keys()
                .map(|key| (key.source, key.destination))
                .collect(),
            past_rest: (self.flows.past_rest.bytes, self.flows.past_rest.packets),
        }
    }

    /// Goes on without a journal: there is no memory for it. What it said must not be found any more.
    fn give_up_recording(&mut self, pins: &Pins, error: &io::Error) {
        tracing::error!(
            %error,
            "cannot write the journal: what is attached is not pinned any more, and ends with this process"
        );
        self.unpin(pins);
    }

    /// Has nothing outlive this process any more. What a thread is about to attach keeps its name for a moment, without
    /// anybody who could find it.
    pub(super) fn unpin(&mut self, pins: &Pins) {
        self.features.insert("pins", false);
        for key in self.interfaces.keys().copied().collect::<Vec<_>>() {
            if let Some(Interface {
                attachment: AttachmentState::Attached(attachment),
                ..
            }) = self.interfaces.get_mut(&key)
            {
                attachment.unpin();
            }
        }
        self.spares.unpin();
        self.kernel.unpin();
        if let Err(error) = pins.forget() {
            tracing::warn!(%error, "cannot remove pins");
        }
    }
}
