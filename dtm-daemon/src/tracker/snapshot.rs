//! Everything a scrape shows, read in one pass, owned, and free of Docker's and the kernel's types.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use dtm_common::{
    tcp::TcpCounters,
    traffic::Tally,
    views::{ViewCounters, Volume},
};

use super::Infrastructure;
use crate::{
    docker::{Container, ContainerState},
    net::{DeviceDrops, ListenCounts},
    uplinks::UplinkSnapshot,
};

/// The state of the daemon at one moment. All counts in it come from the same pass over the maps.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When the maps were read, by the clock that only goes on (`CLOCK_MONOTONIC`): readings have their distance by it.
    pub read_at: Duration,
    /// Containers that live, and those that ended less than the linger time ago; sorted by name, then id.
    pub containers: Vec<ContainerSnapshot>,
    /// Docker's networks that have or had traffic; sorted by name, then id.
    pub networks: Vec<NetworkSnapshot>,
    /// Traffic of interfaces that vanished without a name.
    pub unattributed: Traffic,
    /// Drops that belong to no container, by the kernel's reason; every reason of the running kernel, from 0.
    pub unattributed_drops: BTreeMap<Arc<str>, u64>,
    /// All drops of the host, by the kernel's reason; every reason of the running kernel, from 0.
    pub dropped: BTreeMap<Arc<str>, u64>,
    /// Who sends to whom; sorted. Empty where that is switched off.
    pub flows: Vec<FlowSnapshot>,
    /// What each life of an interface or control group has counted, whosever it was, by the number of its generation. Those
    /// that never counted are not there.
    pub lives: HashMap<u64, LifeSnapshot>,
    /// What arrives at the host, at the interfaces that are named for it; sorted by name.
    pub uplinks: Vec<UplinkSnapshot>,
    /// How the daemon itself fares.
    pub status: Status,
}

/// A pair of names and what it moved, each byte once.
#[derive(Clone, Debug)]
pub struct FlowSnapshot {
    /// Who sent: a container's name, or a pseudo peer's, which begins with `@`.
    pub source: Arc<str>,
    /// To whom, likewise.
    pub destination: Arc<str>,
    /// What.
    pub volume: Volume,
}

/// What one life of an interface has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeSnapshot {
    /// Towards the container, as in [`Traffic::receive`].
    pub receive: Tally,
    /// From the container, as in [`Traffic::transmit`].
    pub transmit: Tally,
}

/// Both directions of an interface or network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Towards the container (for a bridge: from the host into the network).
    pub receive: Tally,
    /// From the container (for a bridge: out of the network to the host).
    pub transmit: Tally,
    /// The same by scope and protocol: of containers' interfaces only, and zero where that is switched off.
    pub views: ViewCounters,
    /// What its devices threw away by their own counters; none where these are not looked at.
    pub dropped: Option<DeviceDrops>,
}

/// One container and all its series.
#[derive(Clone, Debug)]
pub struct ContainerSnapshot {
    /// Docker's description, as of the last word.
    pub container: Arc<Container>,
    /// False once it ended and only its final totals linger.
    pub living: bool,
    /// For `container:X`: the full id of the container whose network it shares.
    pub network_container_id: Option<Arc<str>>,
    /// One per (network, interface) it ever had; sorted.
    pub interfaces: Vec<InterfaceSnapshot>,
    /// Its traffic by scope and protocol, over all its interfaces; none where that is switched off, and of one that never
    /// had an interface.
    pub views: Option<Box<ViewCounters>>,
    /// How its TCP connections fare; none where that is not counted, and of one that never had an interface of its own.
    pub tcp: Option<Box<TcpSnapshot>>,
    /// What it lost; sorted.
    pub drops: Vec<DropSnapshot>,
    /// Why traffic of this container cannot be seen, where that is so.
    pub uncovered: Option<&'static str>,
}

/// The totals of one (network, interface) of a container, over all generations of the interface.
#[derive(Clone, Debug)]
pub struct InterfaceSnapshot {
    /// Docker's name of the network.
    pub network: Arc<str>,
    /// The interface's name inside the container.
    pub interface: Arc<str>,
    /// What it moved.
    pub traffic: Traffic,
}

/// How the TCP connections of a container fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSnapshot {
    /// What they have done.
    pub counters: TcpCounters,
    /// How many there are now, as the kernel's `CurrEstab`; none where it is not known how many there were before dtm came.
    pub connections: Option<u64>,
    /// What its listeners could not take, as of the last reading, which is at most 15 seconds old; none on the host's
    /// network, where the kernel counts for all together.
    pub listen: Option<ListenCounts>,
}

/// What a container lost one way for one reason.
#[derive(Clone, Debug)]
pub struct DropSnapshot {
    /// `receive`, `transmit` or `unknown`.
    pub direction: &'static str,
    /// The kernel's reason, lower case, without its prefix.
    pub reason: Arc<str>,
    /// Wire packets lost.
    pub packets: u64,
    /// Bytes lost.
    pub bytes: u64,
}

/// The sums of one Docker network.
#[derive(Clone, Debug)]
pub struct NetworkSnapshot {
    /// Docker's name.
    pub name: Arc<str>,
    /// Docker's driver.
    pub driver: Arc<str>,
    /// All containers' traffic on it, living and gone.
    pub containers: Traffic,
    /// Traffic between it and the host at its bridge, where it has one that is counted.
    pub bridge: Option<Traffic>,
    /// Traffic of Docker's own sandboxes on it, living and gone; in no container's and not in `containers`.
    pub infrastructure: BTreeMap<Infrastructure, Traffic>,
}

/// The daemon's own state.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether the engine answered last time.
    pub docker_up: bool,
    /// Docker's version as it reports it, empty while unknown.
    pub docker_version: Arc<str>,
    /// Containers by Docker's state; every state is there.
    pub containers: BTreeMap<ContainerState, u64>,
    /// Interfaces by (`state`, `mode`): `pending`, `named`, `infrastructure`, `bridge`, `failed` × `tcx`, `clsact`, `none`; every combination that
    /// can occur is there, from 0.
    pub interfaces: BTreeMap<(&'static str, &'static str), u64>,
    /// Interfaces at which somebody else's program runs before dtm's, by `mode`; from 0.
    pub preceded: BTreeMap<&'static str, u64>,
    /// What the host offers, by name, from `bpf::features`; every feature is there.
    pub features: BTreeMap<&'static str, bool>,
    /// How many interfaces each program is attached to (1 for a tracepoint).
    pub programs: BTreeMap<&'static str, u64>,
    /// Entries in use and the most there can be, by map.
    pub maps: BTreeMap<&'static str, (u64, u64)>,
    /// Map updates that failed, by map; from 0.
    pub map_update_errors: BTreeMap<&'static str, u64>,
    /// Events nobody could read in time, by source (`netlink`, `kfree_skb`, …); from 0.
    pub events_lost: BTreeMap<&'static str, u64>,
    /// Attachments that failed, by reason; from 0.
    pub attach_errors: BTreeMap<&'static str, u64>,
    /// Attachments that somebody removed and dtm made again.
    pub reattached: u64,
    /// What an earlier process had attached to, as it was found: `attached`, `detached`, `gone`; from 0.
    pub takeover: BTreeMap<&'static str, u64>,
    /// For how long nobody watched.
    pub unwatched: Duration,
    /// Memory of the journal; 0 where there is none.
    pub journal_bytes: u64,
    /// Pairs of the matrix, and the most there can be; none where it is switched off.
    pub flow_pairs: Option<(u64, u64)>,
    /// The kernel side's own errors, by name (`dtm_common::errors::ERROR_NAMES`); from 0.
    pub program_errors: BTreeMap<&'static str, u64>,
    /// How long reading the maps for this snapshot took.
    pub read_duration: Duration,
    /// False where a map could not be read: its numbers are left out.
    pub read_success: bool,
}
