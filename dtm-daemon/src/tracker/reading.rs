//! One pass over the maps, made into what a scrape shows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{
    drops::{DropKey, DropTally, OWNER_PENDING},
    index::InterfaceKey,
};

use super::{
    ContainerSnapshot, DropSnapshot, InterfaceSnapshot, LifeSnapshot, Snapshot, Status, TcpSnapshot, Tracker,
    Traffic,
    containers::{Drops, Tracked},
    drops::{add, direction},
    interfaces::{AttachmentState, REFUSED, Role, states},
    placing::{Sight, place, uncovered},
    tcp,
    traffic::add_views,
};
use crate::{
    bpf::Mode,
    docker::{ContainerId, ContainerState, Network},
    uplinks::{UplinksSnapshot, UplinksView},
};

/// Drops of one pass, by whose they are.
#[derive(Default)]
struct DropsRead {
    by_container: HashMap<u32, Drops>,
    unattributed: BTreeMap<Arc<str>, u64>,
    all: BTreeMap<Arc<str>, u64>,
    entries: u64,
    success: bool,
}

/// A container's places as the tracker knows them.
pub(super) struct Seen<'a> {
    pub(super) tracker: &'a Tracker,
    pub(super) tracked: &'a Tracked,
}

impl Sight for Seen<'_> {
    fn group(&self) -> Option<&'static str> {
        self.tracker.group_uncovered(&self.tracked.container.id)
    }

    fn is_rootless(&self) -> bool {
        self.tracker.docker.rootless
    }

    fn has_bridge(&self, name: &str) -> bool {
        let mut bridges = self.tracker.bridges.values();
        bridges.any(|bridge| &*bridge.name == name)
    }

    fn is_counted_on(&self, network: &Network) -> bool {
        self.tracked.is_counted_on(&network.name)
    }
}

impl Tracker {
    /// Reads everything once.
    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let started = Instant::now();
        let read_at = monotonic();
        let mut traffic = HashMap::<InterfaceKey, Traffic>::with_capacity(self.interfaces.len());
        let mut lives = HashMap::with_capacity(self.interfaces.len());
        for (key, interface) in self.interfaces.iter() {
            let counted = interface.counted(&self.kernel.counters, self.former.as_ref());
            traffic.insert(*key, interface.moved(&counted));
            let life = LifeSnapshot {
                receive: counted.receive,
                transmit: counted.transmit,
            };
            let is_attached = matches!(interface.attachment, AttachmentState::Attached(_));
            if is_attached || life != LifeSnapshot::default() {
                lives.insert(interface.generation.number, life);
            }
        }
        let mut drops = self.read_drops();
        let errors = self.kernel.errors();
        let read_duration = started.elapsed();
        let live: Vec<_> = self
            .interfaces
            .iter()
            .filter_map(|(key, interface)| {
                let traffic = *traffic.get(key)?;
                let (network, part) = interface.role.part()?;
                Some((Arc::clone(network), traffic, part))
            })
            .collect();
        let connections = self.read_tcp();
        let mut containers: Vec<_> = self
            .containers
            .iter()
            .filter(|tracked| tracked.is_shown(now, self.linger))
            .map(|tracked| {
                let tcp = tcp::snapshot(tracked, &connections);
                self.container_snapshot(tracked, &traffic, tcp, &mut drops)
            })
            .collect();
        let name = |container: &ContainerSnapshot| {
            (
                Arc::clone(&container.container.name),
                container.container.id.clone(),
            )
        };
        containers.sort_by_cached_key(name);
        let uplinks = self.uplinks.as_ref().map(UplinksView::read).unwrap_or_default();
        let status = self.status(&drops, read_duration, errors, &uplinks);
        Snapshot {
            read_at,
            containers,
            networks: self.networks.snapshot(&live),
            unattributed: self.nobodys(&traffic),
            unattributed_drops: drops.unattributed,
            dropped: drops.all,
            flows: if self.kernel.flows.is_some() {
                self.flows.snapshot(now, self.linger)
            } else {
                Vec::new()
            },
            lives,
            uplinks: uplinks.uplinks,
            status,
        }
    }

    fn container_snapshot(
        &self,
        tracked: &Tracked,
        traffic: &HashMap<InterfaceKey, Traffic>,
        tcp: Option<Box<TcpSnapshot>>,
        drops: &mut DropsRead,
    ) -> ContainerSnapshot {
        let mut views = tracked.past_views;
        let interfaces = tracked.series.iter().map(|((network, interface), series)| {
            let mut sum = series.past;
            for live in series.live.iter().filter_map(|key| traffic.get(key)) {
                sum += *live;
            }
            add_views(&mut views, &sum.views);
            InterfaceSnapshot {
                network: Arc::clone(network),
                interface: Arc::clone(interface),
                traffic: sum,
            }
        });
        let interfaces: Vec<_> = interfaces.collect();
        let has_views = self.kernel.limits.scopes && !interfaces.is_empty();
        let mut lost = tracked.past_drops.clone();
        for (key, tally) in drops.by_container.remove(&tracked.number).into_iter().flatten() {
            add(lost.entry(key).or_default(), tally);
        }
        let mut lost: Vec<_> = lost
            .into_iter()
            .map(|((number, reason), DropTally { packets, bytes })| DropSnapshot {
                direction: direction(number),
                reason: self.kernel.reasons.name(reason),
                packets,
                bytes,
            })
            .collect();
        lost.sort_by(|one, other| (one.direction, &one.reason).cmp(&(other.direction, &other.reason)));
        let container = Arc::clone(&tracked.container);
        let shared = container.network_mode.strip_prefix("container:").map(Arc::from);
        let living = tracked.is_living();
        ContainerSnapshot {
            uncovered: self.uncovered(tracked).filter(|_reason| living),
            living,
            network_container_id: shared,
            interfaces,
            views: has_views.then(|| Box::new(views)),
            tcp,
            drops: lost,
            container,
        }
    }

    /// Why traffic of a container cannot be shown, where that is so.
    pub(super) fn uncovered(&self, tracked: &Tracked) -> Option<&'static str> {
        let container = &tracked.container;
        let find = |id: &ContainerId| self.containers.get(id).map(|tracked| &tracked.container);
        let seen = Seen {
            tracker: self,
            tracked,
        };
        let placed = place(container, self.networks.by_id(), find);
        placed
            .and_then(|place| uncovered(&place, &seen))
            .or_else(|| self.unseen(&container.id))
    }

    /// The kernel's drops and those that are kept from before, by whose they are.
    fn read_drops(&self) -> DropsRead {
        let mut read = DropsRead {
            success: true,
            ..DropsRead::default()
        };
        let Some(map) = &self.kernel.drops else {
            return read;
        };
        let zeroes = || {
            self.kernel
                .reasons
                .drops()
                .map(|reason| (Arc::clone(reason), 0))
                .collect()
        };
        read.all = zeroes();
        read.unattributed = zeroes();
        let owners: HashMap<u32, u32> = self
            .containers
            .iter()
            .flat_map(|tracked| {
                tracked
                    .aliases
                    .iter()
                    .chain([&tracked.number])
                    .map(|owner| (*owner, tracked.number))
            })
            .collect();
        let entries = map.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the map of drops");
            read.success = false;
            Vec::new()
        });
        read.entries = entries.len() as u64;
        let waiting = self.owners_without_name();
        for (
            DropKey {
                owner,
                reason,
                direction,
            },
            tally,
        ) in entries
        {
            let name = self.kernel.reasons.name(reason);
            *read.all.entry(Arc::clone(&name)).or_default() += tally.packets;
            // An interface that is still waiting for its name is nobody's yet, and not unattributed either.
            match owners.get(&owner) {
                Some(number) => {
                    let drops = read.by_container.entry(*number).or_default();
                    add(drops.entry((direction, reason)).or_default(), tally);
                }
                None if waiting.contains(&owner) => {}
                None => *read.unattributed.entry(name).or_default() += tally.packets,
            }
        }
        for tracked in self.containers.iter() {
            for ((_direction, reason), tally) in &tracked.past_drops {
                *read.all.entry(self.kernel.reasons.name(*reason)).or_default() += tally.packets;
            }
        }
        for (reason, (all, of_nobody)) in &self.past_drops {
            let name = self.kernel.reasons.name(*reason);
            *read.all.entry(Arc::clone(&name)).or_default() += all;
            *read.unattributed.entry(name).or_default() += of_nobody;
        }
        read
    }

    /// Owners of drops at interfaces that wait for their name.
    fn owners_without_name(&self) -> HashSet<u32> {
        let pending = self
            .interfaces
            .values()
            .filter_map(|interface| match interface.role {
                Role::Pending { given_up: false, .. } => Some(interface.pending_owner()),
                _ => None,
            });
        pending
            .chain(self.orphans.iter().map(|orphan| OWNER_PENDING | orphan.slot))
            .collect()
    }

    /// Events that nobody could read, and those that no program saw, by source.
    fn events_lost(&self) -> BTreeMap<&'static str, u64> {
        let mut lost = self.counts.events_lost.clone();
        for (source, missed) in self.kernel.missed.counts() {
            *lost.entry(source).or_default() += missed;
        }
        lost
    }

    fn status(
        &self,
        drops: &DropsRead,
        read_duration: Duration,
        errors: Result<Vec<(&'static str, u64)>, aya::maps::MapError>,
        uplinks: &UplinksSnapshot,
    ) -> Status {
        let mut containers: BTreeMap<_, _> = ContainerState::ALL.map(|state| (state, 0)).into();
        for tracked in self.containers.iter().filter(|tracked| !tracked.destroyed) {
            *containers.entry(tracked.container.state).or_default() += 1;
        }
        let mut interfaces: BTreeMap<_, _> = states().map(|state| (state, 0)).collect();
        let mut preceded: BTreeMap<_, _> = Mode::OF_INTERFACES.map(|mode| (mode.as_str(), 0)).into();
        let (mut attached, mut groups) = (0, 0);
        for interface in self.interfaces.values() {
            *interfaces.entry(interface.state()).or_default() += 1;
            if let AttachmentState::Attached(attachment) = &interface.attachment {
                if attachment.mode() == Mode::Cgroup {
                    groups += 1;
                    continue;
                }
                attached += 1;
                *preceded.entry(attachment.mode().as_str()).or_default() +=
                    u64::from(interface.preceded.is_some());
            }
        }
        interfaces.insert(REFUSED, self.refused.len() as u64);
        let (in_use, limit) = self.slots.usage();
        let in_use = in_use.saturating_sub(self.spares.idle());
        let mut maps = BTreeMap::from([("counters", (in_use, limit))]);
        maps.extend(
            self.kernel
                .map_use(drops.entries, self.flows.entries)
                .map(|(map, entries, limit)| (map, (entries, limit))),
        );
        let read_success = drops.success && errors.is_ok();
        let mut attach_errors = self.counts.attach_errors.clone();
        for (reason, errors) in &uplinks.errors {
            *attach_errors.entry(reason).or_default() += errors;
        }
        let at_uplinks = uplinks.uplinks.iter().filter(|uplink| uplink.mode.is_some());
        Status {
            docker_up: self.docker.up == Some(true),
            docker_version: Arc::clone(&self.docker.version),
            containers,
            interfaces,
            preceded,
            features: self.features.clone(),
            programs: BTreeMap::from([
                ("dtm_transmit", attached),
                ("dtm_receive", attached),
                ("dtm_cgroup_transmit", groups),
                ("dtm_cgroup_receive", groups),
                ("dtm_kfree_skb", u64::from(self.kernel.drops.is_some())),
                ("dtm_tcp", self.kernel.tcp_programs().0),
                ("dtm_sock_ops", self.kernel.tcp_programs().1),
                ("dtm_uplink", at_uplinks.count() as u64),
            ]),
            maps,
            map_update_errors: self.counts.map_update_errors.clone(),
            events_lost: self.events_lost(),
            attach_errors,
            reattached: self.counts.reattached + uplinks.reattached,
            takeover: self.takeover.by_found(),
            unwatched: self.unwatched,
            flow_pairs: self
                .kernel
                .flows
                .is_some()
                .then(|| (self.flows.entries, self.kernel.limits.pairs.into())),
            journal_bytes: self
                .recorder
                .as_ref()
                .map_or(0, |recorder| recorder.journal.size() as u64),
            program_errors: errors.unwrap_or_default().into_iter().collect(),
            read_duration,
            read_success,
        }
    }
}

/// The time of the clock that only goes on, which an `Instant` keeps to itself.
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Less than a second of nanoseconds fits.
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned() as u32)
}
