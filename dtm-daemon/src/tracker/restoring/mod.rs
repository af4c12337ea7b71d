//! Taking over what an earlier process has left: who is who, what was counted, and what is attached.
//!
//! Nothing is attached anew that is still there. What is not there any more is found by the same looks that find it at any
//! other time: interfaces by listing them, groups by listing those, links and filters by looking after them.

mod flows;
mod kernel;
mod left;
mod links;
mod moves;
mod resuming;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{drops::OWNER_NONE, index::InterfaceKey};

pub(super) use self::left::Left;
use self::{links::Links, moves::Moves};
use super::{
    Counts, Tracker,
    attaching::Generation,
    containers::{Series, Tracked},
    drops::EndedSlot,
    interfaces::{AttachmentState, DEVICES, GROUPS, Interface, Role},
    nameless::Orphan,
    records::{
        AttachedRecord, Clock, ContainerRecord, EndedRecord, InterfaceRecord, OrphanRecord, TotalsRecord,
        drop_key, key,
    },
    spares::Lasting,
    tcp::Sockets,
    traffic::views_of,
};
use crate::{
    bpf::{Attachment, Former, Found, Mode, Pins},
    docker::ContainerId,
};

/// What was found at the start, by the `found` label of `dtm_takeover_interfaces`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Takeover {
    /// Went on counting.
    pub(super) attached: u64,
    /// Were there, with a program taken off.
    pub(super) detached: u64,
    /// Had gone meanwhile.
    pub(super) gone: u64,
}

impl Takeover {
    /// By the label.
    pub(super) fn by_found(self) -> BTreeMap<&'static str, u64> {
        let Self {
            attached,
            detached,
            gone,
        } = self;
        [("attached", attached), ("detached", detached), ("gone", gone)].into()
    }
}

impl Tracker {
    /// Takes over what was found. `pins` is where this process has its own.
    pub(super) fn restore(&mut self, found: Found, left: Left, pins: &Arc<Pins>, clock: Clock) {
        let now = Instant::now();
        let Found {
            seen,
            former,
            is_moved,
            entries: _,
        } = found;
        let Left {
            totals,
            containers,
            networks,
            mut interfaces,
            orphans,
            mut ended,
            hidden,
            ends,
            pairs,
        } = left;
        let away = Duration::from_nanos(clock.now().saturating_sub(seen));
        tracing::info!(
            interfaces = interfaces.len(),
            containers = containers.len(),
            away = ?away,
            from_layout = former.as_ref().map(Former::layout),
            "taking over from an earlier dtm"
        );
        self.unwatched = Duration::from_nanos(totals.unwatched) + away;
        self.restore_totals(&totals);
        for (id, network) in networks {
            self.networks.restore(id, network.kept(clock));
        }
        let moves = self.moves(is_moved, &containers, &interfaces, &orphans, &ended);
        self.restore_containers(containers, &moves, clock);
        let mut in_use = BTreeSet::new();
        for orphan in orphans {
            let Some(slot) = moves.slot(orphan.slot) else {
                continue;
            };
            in_use.insert(slot);
            self.restore_orphan(orphan, slot, clock);
        }
        if !moves.are_any() {
            ended.retain(|ended| moves.slot(ended.slot).is_some());
            in_use.extend(ended.iter().map(|ended| ended.slot));
            self.ended_slots = ended
                .into_iter()
                .map(|EndedRecord { slot, of, since }| EndedSlot {
                    slot,
                    of,
                    since: clock.moment(since),
                })
                .collect();
        }
        let links = Links::find(pins, former.as_ref().map(|former| &former.pins));
        if let Some(former) = former.as_ref().filter(|_former| is_moved) {
            self.move_tcp(former);
            match former.drops() {
                Ok(drops) => self.move_drops(drops, &moves),
                Err(error) => tracing::warn!(%error, "cannot read what an earlier dtm has counted of drops"),
            }
        } else {
            let folded: Vec<_> = totals.folded.iter().copied().map(drop_key).collect();
            self.remove_drops(&folded);
        }
        // Those of the maps before the former ones.
        let are_lost = interfaces
            .iter_mut()
            .filter_map(|record| record.former.take_if(|_slot| is_moved));
        if are_lost.count() > 0 {
            tracing::warn!(
                "two dtms of other layouts ended while they took over: what was counted before is missing"
            );
        }
        self.former = former;
        in_use.extend(self.restore_interfaces(interfaces, &moves, links, clock));
        if !is_moved {
            let lasting = Lasting {
                pins: Arc::clone(pins),
                program: self.kernel.program,
            };
            in_use.extend(self.spares.restore(&lasting, |slot| in_use.contains(&slot)));
        }
        self.slots.restore(&in_use, now);
        self.restore_flows(ends, pairs, &totals, clock);
        self.restore_owners();
        self.resume_tcp();
        self.left_hidden = hidden.into_iter().map(|hidden| (hidden.number, hidden)).collect();
    }

    /// Takes over interfaces, and says which slots they have. Links that are nobody's are taken off.
    fn restore_interfaces(
        &mut self,
        interfaces: Vec<InterfaceRecord>,
        moves: &Moves,
        mut links: Links,
        clock: Clock,
    ) -> Vec<u32> {
        let (mut in_use, mut groups, mut devices) = (Vec::new(), Vec::new(), Vec::new());
        for record in interfaces {
            // Where there are fewer slots than before, its links go with the others that nobody takes.
            let Some(slot) = moves.slot(record.slot) else {
                continue;
            };
            in_use.push(slot);
            let key = key(record.key);
            if key.netns == DEVICES {
                devices.push((key, record.here, record.inside));
            }
            let interface = restored(record, slot, moves.are_any(), &mut links, clock);
            if key.netns == GROUPS {
                groups.extend(
                    container_of(&interface.role).map(|id| (id, PathBuf::from(&*interface.link.name), key)),
                );
            }
            self.restore_interface(key, interface, moves.are_any());
        }
        links.take_off();
        self.groups.restore(groups);
        self.devices.restore(devices);
        in_use
    }

    /// Where the maps are others: slots for all that needs one.
    fn moves(
        &self,
        are_others: bool,
        containers: &[ContainerRecord],
        interfaces: &[InterfaceRecord],
        orphans: &[OrphanRecord],
        ended: &[EndedRecord],
    ) -> Moves {
        if !are_others {
            return Moves::none(self.slots.limit());
        }
        let numbers: HashMap<&ContainerId, u32> = containers
            .iter()
            .map(|record| (&record.container.id, record.number))
            .collect();
        let interfaces = interfaces.iter().map(|interface| interface.slot);
        let orphans = orphans.iter().map(|orphan| orphan.slot);
        let ended = ended
            .iter()
            .filter_map(|ended| Some((ended.slot, *numbers.get(ended.of.as_ref()?)?)));
        Moves::to(self.slots.limit(), interfaces.chain(orphans), ended.collect())
    }

    fn restore_totals(&mut self, totals: &TotalsRecord) {
        self.last_generation = totals.last_generation;
        self.containers.restore_last_number(totals.last_number);
        self.unattributed = totals.unattributed;
        self.past_drops = totals
            .past_drops
            .iter()
            .map(|(reason, all, of_nobody)| (*reason, (*all, *of_nobody)))
            .collect();
        let Counts {
            attach_errors,
            map_update_errors,
            events_lost,
            reattached,
        } = &mut self.counts;
        for (counts, left) in [
            (attach_errors, &totals.attach_errors),
            (map_update_errors, &totals.map_update_errors),
            (events_lost, &totals.events_lost),
        ] {
            for (name, count) in counts {
                *count += left.get(*name).copied().unwrap_or_default();
            }
        }
        *reattached += totals.reattached;
    }

    fn restore_containers(&mut self, containers: Vec<ContainerRecord>, moves: &Moves, clock: Clock) {
        for record in containers {
            let past_drops = record.drops();
            let ContainerRecord {
                container,
                number,
                series,
                past_drops: _,
                past_views,
                listen: (listen, last),
                aliases,
                ended,
                destroyed,
            } = record;
            let series = series.into_iter().map(|(network, interface, past, added)| {
                let added = added.map(|added| clock.moment(added));
                ((network, interface), Series::restored(&past, added))
            });
            let aliases = aliases.into_iter().map(|alias| moves.owner(alias));
            self.containers.restore(Tracked {
                series: series.collect(),
                past_drops,
                past_views: views_of(&past_views),
                sockets: Sockets {
                    uncounted: None,
                    listen,
                    last,
                },
                aliases: aliases
                    .filter(|alias| *alias != OWNER_NONE && *alias != number)
                    .collect(),
                ended: ended.map(|ended| clock.moment(ended)),
                destroyed,
                ..Tracked::new(Arc::new(container), number)
            });
        }
    }

    fn restore_orphan(&mut self, orphan: OrphanRecord, slot: u32, clock: Clock) {
        let OrphanRecord {
            key: netns_and_index,
            slot: _,
            generation,
            link,
            bridge,
            identity,
            traffic,
            since,
        } = orphan;
        self.unrecorded.rest = true;
        self.orphans.push(Orphan {
            link,
            bridge,
            slot,
            identity,
            traffic,
            since: clock.moment(since),
            generation: Generation {
                key: key(netns_and_index),
                number: generation,
                slot,
            },
        });
    }

    /// `anew`: its slot is one of new maps, in which nothing was counted for it.
    fn restore_interface(&mut self, key: InterfaceKey, interface: Interface, anew: bool) {
        let slot = interface.slot();
        if !matches!(key.netns, DEVICES | GROUPS) {
            let result = if anew {
                self.kernel.enter(key, slot)
            } else {
                self.kernel.enter_again(key, slot)
            };
            self.check_map("index", result);
        }
        if let Role::Container(named) = &interface.role
            && let Some(tracked) = self.containers.get_mut(&named.container)
        {
            let series = tracked.series.entry(named.series_key()).or_default();
            series.live.insert(key);
            if let Some(inode) = named.netns_inode {
                *tracked.netns.entry(inode).or_default() += 1;
            }
        }
        self.takeover.attached += u64::from(matches!(interface.attachment, AttachmentState::Attached(_)));
        self.interfaces.insert(key, interface);
    }
}

/// An interface as its record says it was, with what is there of its attachment.
fn restored(
    record: InterfaceRecord,
    slot: u32,
    is_moved: bool,
    links: &mut Links,
    clock: Clock,
) -> Interface {
    let generation = Generation {
        key: key(record.key),
        number: record.generation,
        slot,
    };
    let attachment = match record.attached {
        Some(AttachedRecord::Clsact { transmit, receive }) => Some(Attachment::Clsact { transmit, receive }),
        // One that was killed may not have said yet that it had attached.
        Some(AttachedRecord::Tcx | AttachedRecord::Cgroup) | None => {
            let mode = if generation.key.netns == GROUPS {
                Mode::Cgroup
            } else {
                Mode::Tcx
            };
            links.take(record.generation, mode)
        }
    };
    Interface {
        seen_from: record.seen_from,
        bridge: record.bridge,
        attachment: attachment.map_or(AttachmentState::Attaching, AttachmentState::Attached),
        before: record.before,
        former: if is_moved {
            Some(record.slot)
        } else {
            record.former
        },
        base: record.base,
        device: record.device,
        program: record.program,
        // What had this dtm's programs already may have had them only just.
        renewed: (!is_moved).then(Instant::now),
        is_restored: true,
        ..Interface::new(
            record.link,
            generation,
            record.role.role(),
            clock.moment(record.since),
        )
    }
}

/// Whose group it is.
fn container_of(role: &Role) -> Option<ContainerId> {
    match role {
        Role::Container(named) => Some(named.container.clone()),
        Role::Pending {
            identity: Some(identity),
            ..
        } => identity.containers.first().cloned(),
        Role::Pending { identity: None, .. } | Role::Infrastructure { .. } | Role::Bridge { .. } => None,
    }
}
