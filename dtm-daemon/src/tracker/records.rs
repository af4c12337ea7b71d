//! What the journal says of the tracker's state: one entry for each thing, of a form that another dtm can read.
//!
//! A field that is added later must have a default.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{
    drops::{Address, DropKey, DropTally},
    index::InterfaceKey,
};
use serde::{Deserialize, Serialize};

use super::{
    Infrastructure, Traffic,
    attaching::Generation,
    containers::{Drops, Tracked},
    device_drops::DeviceReading,
    devices::Inside,
    interfaces::{AttachmentState, Interface, Named, Role},
    nameless::Orphan,
    naming::Identity,
    networks::{KeptNetwork, Sums},
    traffic::view_numbers,
};
use crate::{
    bpf::{Attachment, ClsactFilter, Mode, Place},
    docker::{Container, ContainerId, Network},
    net::{Link, ListenCounts},
};

/// Bytes of Docker's labels that are kept of a container: anybody can give it any number.
const LABELS: usize = 8 << 10;

/// Turns moments into numbers that mean the same to another process of this host: nanoseconds since its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    anchor: Instant,
    nanoseconds: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = Duration::from_secs(time.tv_sec.cast_unsigned());
        let nanoseconds = seconds.as_nanos() as u64 + time.tv_nsec.cast_unsigned();
        Self {
            anchor: Instant::now(),
            nanoseconds,
        }
    }

    /// The number of the moment in which it was made.
    pub(super) fn now(self) -> u64 {
        self.nanoseconds
    }

    pub(super) fn number(self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.anchor).as_nanos() as u64;
        let before = self.anchor.saturating_duration_since(moment).as_nanos() as u64;
        (self.nanoseconds + since).saturating_sub(before)
    }

    pub(super) fn moment(self, number: u64) -> Instant {
        let before = Duration::from_nanos(self.nanoseconds.saturating_sub(number));
        let after = Duration::from_nanos(number.saturating_sub(self.nanoseconds));
        self.anchor.checked_sub(before).unwrap_or(self.anchor) + after
    }
}

/// `InterfaceKey`: its namespace's number and its index.
type Key = (u32, u32);

pub(super) fn key((netns, ifindex): Key) -> InterfaceKey {
    InterfaceKey { netns, ifindex }
}

/// An interface that has a slot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InterfaceRecord {
    pub(super) key: Key,
    pub(super) slot: u32,
    pub(super) generation: u64,
    pub(super) link: Link,
    pub(super) seen_from: u32,
    pub(super) bridge: Option<Arc<str>>,
    pub(super) role: RoleRecord,
    pub(super) since: u64,
    pub(super) before: Traffic,
    pub(super) base: Traffic,
    /// What its device counts as thrown away.
    #[serde(default)]
    pub(super) device: Option<DeviceReading>,
    /// Its slot among the counters of an earlier run.
    pub(super) former: Option<u32>,
    /// How it is attached; none where that is not done yet, or was refused.
    pub(super) attached: Option<AttachedRecord>,
    /// The programs that run there.
    pub(super) program: u64,
    /// Of a container's own device: its index in dtm's own namespace, or where it is inside of a container.
    pub(super) here: Option<u32>,
    pub(super) inside: Option<Inside>,
}

/// How an interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AttachedRecord {
    /// By links, whose names say whose they are.
    Tcx,
    /// The same, to a control group.
    Cgroup,
    /// By these filters.
    Clsact {
        transmit: ClsactFilter,
        receive: ClsactFilter,
    },
}

/// What an interface is to Docker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleRecord {
    Pending {
        identity: Option<Identity>,
        given_up: bool,
    },
    Container {
        container: ContainerId,
        network: (Arc<str>, Arc<str>),
        interface: Arc<str>,
        netns_inode: Option<u32>,
        addresses: Vec<[u8; 16]>,
    },
    Infrastructure {
        kind: Infrastructure,
        network: Arc<str>,
    },
    Bridge {
        network: Arc<str>,
    },
}

/// A series of a container: network, interface, what generations that are gone moved, and when the last of it was added.
pub(super) type SeriesRecord = (Arc<str>, Arc<str>, Traffic, Option<u64>);

/// A container and its totals.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) container: Container,
    pub(super) number: u32,
    pub(super) series: Vec<SeriesRecord>,
    /// Direction, reason, packets and bytes.
    pub(super) past_drops: Vec<(u32, u32, u64, u64)>,
    /// Places and values of the second view.
    #[serde(default)]
    pub(super) past_views: Vec<u64>,
    /// What its listeners could not take, and what its namespace's said last.
    #[serde(default)]
    pub(super) listen: (ListenCounts, Option<(u32, ListenCounts)>),
    pub(super) aliases: Vec<u32>,
    pub(super) ended: Option<u64>,
    pub(super) destroyed: bool,
}

/// A network and its sums.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub(super) network: Option<Network>,
    pub(super) past: Option<Sums>,
    pub(super) removed: Option<u64>,
}

/// An interface that was gone before it had a name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OrphanRecord {
    pub(super) key: Key,
    pub(super) slot: u32,
    pub(super) generation: u64,
    pub(super) link: Link,
    pub(super) bridge: Option<Arc<str>>,
    pub(super) identity: Option<Identity>,
    pub(super) traffic: Traffic,
    pub(super) since: u64,
}

/// A slot whose interface is gone, and whose its drops are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndedRecord {
    pub(super) slot: u32,
    pub(super) of: Option<ContainerId>,
    pub(super) since: u64,
}

/// A namespace that hides an overlay network.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HiddenRecord {
    pub(super) number: u32,
    pub(super) inode: u64,
    pub(super) cookie: Option<u64>,
}

/// What there is one of.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TotalsRecord {
    pub(super) last_generation: u64,
    pub(super) last_number: u32,
    pub(super) unattributed: Traffic,
    /// Reason, packets of all and of nobody, of what is forgotten.
    pub(super) past_drops: Vec<(u32, u64, u64)>,
    pub(super) attach_errors: BTreeMap<String, u64>,
    pub(super) map_update_errors: BTreeMap<String, u64>,
    pub(super) events_lost: BTreeMap<String, u64>,
    pub(super) reattached: u64,
    /// For how long nobody watched, in nanoseconds.
    pub(super) unwatched: u64,
    /// Owner, reason and direction of drops that are among those above or a container's, and may still be in the kernel's
    /// map.
    pub(super) folded: Vec<(u32, u32, u32)>,
    /// The same of pairs: source and destination.
    #[serde(default)]
    pub(super) folded_flows: Vec<(u32, u32)>,
    /// Bytes and packets of pairs that found no room in maps that are gone.
    #[serde(default)]
    pub(super) past_rest: (u64, u64),
}

/// Whose the number of an interface's life is in the matrix.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndRecord {
    pub(super) number: u32,
    pub(super) name: Arc<str>,
    pub(super) ended: Option<u64>,
}

/// What a pair of names has moved by pairs of numbers that are gone: bytes and packets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PairRecord {
    pub(super) source: Arc<str>,
    pub(super) destination: Arc<str>,
    pub(super) past: (u64, u64),
}

impl InterfaceRecord {
    pub(super) fn new(
        interface: &Interface,
        (here, inside): (Option<u32>, Option<Inside>),
        clock: Clock,
    ) -> Self {
        let Generation { key, number, slot } = interface.generation;
        let attached = match &interface.attachment {
            AttachmentState::Attached(attachment) => Some(AttachedRecord::new(attachment)),
            AttachmentState::Attaching | AttachmentState::Failed { .. } => None,
        };
        Self {
            key: (key.netns, key.ifindex),
            slot,
            generation: number,
            link: interface.link.clone(),
            seen_from: interface.seen_from,
            bridge: interface.bridge.clone(),
            role: RoleRecord::new(&interface.role),
            since: clock.number(interface.since),
            before: interface.before,
            base: interface.base,
            device: interface.device,
            former: interface.former,
            attached,
            program: interface.program,
            here,
            inside,
        }
    }
}

impl AttachedRecord {
    fn new(attachment: &Attachment) -> Self {
        match (attachment.mode(), attachment.place()) {
            (Mode::Clsact, Some(Place::Clsact { transmit, receive })) => Self::Clsact { transmit, receive },
            (Mode::Cgroup, _) => Self::Cgroup,
            (Mode::Tcx | Mode::Clsact, _) => Self::Tcx,
        }
    }
}

impl RoleRecord {
    fn new(role: &Role) -> Self {
        match role {
            Role::Pending {
                identity, given_up, ..
            } => Self::Pending {
                identity: identity.clone(),
                given_up: *given_up,
            },
            Role::Container(named) => Self::Container {
                container: named.container.clone(),
                network: named.network.clone(),
                interface: Arc::clone(&named.interface),
                netns_inode: named.netns_inode,
                addresses: named.addresses.iter().map(|address| address.0).collect(),
            },
            Role::Infrastructure { kind, network } => Self::Infrastructure {
                kind: *kind,
                network: Arc::clone(network),
            },
            Role::Bridge { network } => Self::Bridge {
                network: Arc::clone(network),
            },
        }
    }

    pub(super) fn role(self) -> Role {
        match self {
            Self::Pending { identity, given_up } => Role::Pending {
                identity,
                asked: None,
                given_up,
            },
            Self::Container {
                container,
                network,
                interface,
                netns_inode,
                addresses,
            } => Role::Container(Named {
                container,
                network,
                interface,
                netns_inode,
                addresses: addresses.into_iter().map(Address).collect(),
            }),
            Self::Infrastructure { kind, network } => Role::Infrastructure { kind, network },
            Self::Bridge { network } => Role::Bridge { network },
        }
    }
}

impl ContainerRecord {
    pub(super) fn new(tracked: &Tracked, clock: Clock) -> Self {
        let mut container = (*tracked.container).clone();
        let mut room = LABELS;
        container.labels.retain(|name, value| {
            let size = name.len() + value.len();
            let fits = size <= room;
            room -= if fits { size } else { 0 };
            fits
        });
        let series = tracked.series.iter().map(|((network, interface), series)| {
            let added = series.added().map(|added| clock.number(added));
            (Arc::clone(network), Arc::clone(interface), series.past, added)
        });
        let past_drops = tracked.past_drops.iter();
        Self {
            series: series.collect(),
            number: tracked.number,
            past_drops: past_drops
                .map(|((direction, reason), tally)| (*direction, *reason, tally.packets, tally.bytes))
                .collect(),
            past_views: view_numbers(&tracked.past_views),
            listen: (tracked.sockets.listen, tracked.sockets.last),
            aliases: tracked.aliases.iter().copied().collect(),
            ended: tracked.ended.map(|ended| clock.number(ended)),
            destroyed: tracked.destroyed,
            container,
        }
    }

    pub(super) fn drops(&self) -> Drops {
        let drops = self.past_drops.iter();
        drops
            .map(|(direction, reason, packets, bytes)| {
                let tally = DropTally {
                    packets: *packets,
                    bytes: *bytes,
                };
                ((*direction, *reason), tally)
            })
            .collect()
    }
}

impl NetworkRecord {
    pub(super) fn new(kept: KeptNetwork, clock: Clock) -> Self {
        let KeptNetwork {
            network,
            past,
            removed,
        } = kept;
        Self {
            network,
            past,
            removed: removed.map(|removed| clock.number(removed)),
        }
    }

    pub(super) fn kept(self, clock: Clock) -> KeptNetwork {
        let Self {
            network,
            past,
            removed,
        } = self;
        KeptNetwork {
            network,
            past,
            removed: removed.map(|removed| clock.moment(removed)),
        }
    }
}

impl OrphanRecord {
    pub(super) fn new(orphan: &Orphan, clock: Clock) -> Self {
        let Generation { key, number, slot } = orphan.generation;
        Self {
            key: (key.netns, key.ifindex),
            slot,
            generation: number,
            link: orphan.link.clone(),
            bridge: orphan.bridge.clone(),
            identity: orphan.identity.clone(),
            traffic: orphan.traffic,
            since: clock.number(orphan.since),
        }
    }
}

/// What the journal keeps of a key of the kernel's drops.
pub(super) fn drop_key((owner, reason, direction): (u32, u32, u32)) -> DropKey {
    DropKey {
        owner,
        reason,
        direction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_and_after_the_anchor_come_back() {
        let clock = Clock::new();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        for moment in [now, now + second, now.checked_sub(second).unwrap()] {
            assert_eq!(clock.moment(clock.number(moment)), moment);
        }
        assert!(clock.number(now + second) - clock.number(now) == 1_000_000_000);
    }

    #[test]
    fn too_many_labels_are_not_kept() {
        use crate::docker::fixture;
        let mut container = fixture::container('a', "bridge", &[]);
        container.labels.insert("a".to_owned(), "x".repeat(LABELS * 10));
        container.labels.insert("b".to_owned(), "short".to_owned());
        let mut containers = super::super::containers::Containers::default();
        let id = container.id.clone();
        containers.update(container, Instant::now());
        let record = ContainerRecord::new(containers.get(&id).unwrap(), Clock::new());
        assert_eq!(record.container.labels.len(), 1);
        let text = serde_json::to_vec(&record).unwrap();
        let back: ContainerRecord = serde_json::from_slice(&text).unwrap();
        assert_eq!(back.container, record.container);
    }
}
