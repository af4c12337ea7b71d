//! Who is who: the one owner of the daemon's state.
//!
//! The tracker learns of interfaces from the kernel and of containers from Docker, in any order, and puts the two
//! together. It only keeps state and decides: attaching and identifying wait in threads of their own
//! ([`attaching`], [`resolving`]), and reading the counters is reading memory.

mod asking;
mod attaching;
mod bridges;
mod claims;
mod containers;
mod device_drops;
mod devices;
mod drops;
mod flows;
mod groups;
mod handle;
mod hidden;
mod infrastructure;
mod interfaces;
mod links;
mod mending;
mod nameless;
mod names;
mod namespaces;
mod naming;
mod networks;
mod noted;
mod places;
pub(crate) mod placing;
mod reading;
mod recording;
mod records;
mod resolving;
mod restoring;
mod sites;
mod slots;
mod snapshot;
mod spares;
mod starting;
mod stopping;
mod tcp;
mod traffic;
mod unseen;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    sync::{Arc, mpsc as std_mpsc},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::maps::MapError;
use dtm_common::{drops::Address, index::InterfaceKey};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use self::{
    attaching::Report,
    claims::Claims,
    containers::Containers,
    devices::Devices,
    drops::EndedSlot,
    flows::Flows,
    groups::Groups,
    handle::Command,
    hidden::HiddenEvent,
    interfaces::{DEVICES, GROUPS, Interface, OWN_NETNS},
    mending::{LOOK, Looks},
    nameless::Orphan,
    namespaces::Watched,
    networks::Networks,
    noted::Noted,
    recording::{Recorder, Unrecorded},
    records::HiddenRecord,
    resolving::{ResolveOrder, Resolved},
    restoring::Takeover,
    sites::Sites,
    slots::Slots,
    spares::Spares,
};
pub use self::{
    handle::{TrackerHandle, TrackerStopped},
    infrastructure::Infrastructure,
    places::{PlaceSnapshot, Places, UncoveredSnapshot},
    snapshot::{
        ContainerSnapshot, DropSnapshot, FlowSnapshot, InterfaceSnapshot, LifeSnapshot, NetworkSnapshot,
        Snapshot, Status, TcpSnapshot, Traffic,
    },
    starting::Settings,
};
use crate::{
    bpf::{AttachError, CgroupWatch, Former, Kernel},
    docker::{About, DockerUpdate},
    memory::{self, Freed},
    net::{Link, LinkEvent, LinkKind, LinkWatch, dump, dump_addresses},
    uplinks::{self, UplinksView},
};

/// How often lingering totals, orphans and refused attachments are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How often everything is compared with a fresh list of interfaces, and with what is attached, whatever the events
/// said: events are not lost without a word, so this is for what nobody thought of.
const RESYNCHRONISE: Duration = Duration::from_mins(5);

/// How often it is tried again where something could not be attached.
const RETRY: Duration = Duration::from_secs(30);

/// Room in the channels between the tracker and its threads: more jobs than a host starts containers at once.
const CHANNEL: usize = 1024;

/// The owner of the state. [`Tracker::run`] is its life.
pub struct Tracker {
    kernel: Kernel,
    /// What an earlier dtm has counted in maps of another shape, while that is of use.
    former: Option<Former>,
    linger: Duration,
    slots: Slots,
    interfaces: Noted<InterfaceKey, Interface>,
    /// Every bridge there is in dtm's own namespace, by index.
    bridges: HashMap<u32, Link>,
    /// Host ends on bridges that are not Docker's, with their bridge: not attached to.
    foreign: HashMap<InterfaceKey, u32>,
    /// Interfaces that found every slot in use.
    refused: BTreeSet<InterfaceKey>,
    /// Pairs whose other end is in dtm's own namespace and may yet leave: the host end by the other's index.
    peers_here: HashMap<u32, InterfaceKey>,
    orphans: Vec<Orphan>,
    ended_slots: Vec<EndedSlot>,
    /// Something happened that may lead to a name. Looked for once for all that happens at a time: it is a pass over
    /// all interfaces.
    naming_due: bool,
    containers: Containers,
    networks: Networks,
    addresses: Claims<Address>,
    sites: Sites,
    flows: Flows,
    /// When the devices' own counters were last read.
    devices_read: Option<Instant>,
    last_generation: u64,
    unattributed: Traffic,
    /// Drops by reason of containers and orphans that are forgotten: (all, those of nobody).
    past_drops: BTreeMap<u32, (u64, u64)>,
    docker: Docker,
    unseen: unseen::Unseen,
    counts: Counts,
    features: BTreeMap<&'static str, bool>,
    /// Where the state outlives the process, if it does.
    recorder: Option<Recorder>,
    unrecorded: Unrecorded,
    takeover: Takeover,
    /// Namespaces that an earlier process knew, until they are found again, by dtm's numbers for them.
    left_hidden: BTreeMap<u32, HiddenRecord>,
    /// For how long nobody watched.
    unwatched: Duration,
    looks: Looks,
    freed: Freed,
    /// An interface got none of the kernel side's entries.
    unindexed: bool,
    /// Attach jobs of the start that are not done.
    starting: HashSet<InterfaceKey>,
    /// The namespaces whose interfaces are watched, by dtm's numbers for them.
    namespaces: BTreeMap<u32, Watched>,
    /// What happens in dtm's own.
    links: LinkWatch,
    /// dtm's own, to recognise it from another.
    own_netns: File,
    /// What happens in the others, and to whom that is told.
    elsewhere: mpsc::Receiver<(u32, Vec<LinkEvent>)>,
    tell_elsewhere: mpsc::Sender<(u32, Vec<LinkEvent>)>,
    /// Containers on the host's network.
    groups: Groups,
    /// What happens to control groups; none where nothing tells.
    cgroups: Option<CgroupWatch>,
    /// Containers' own devices.
    devices: Devices,
    /// Programs for both.
    spares: Spares,
    /// Namespaces that hide networks, as they come and go.
    hidden: mpsc::Receiver<HiddenEvent>,
    /// Those that were there at the start are all taken in.
    hidden_listed: bool,
    /// What looks at containers' sockets, and what it sees.
    sockets: tcp::Looks,
    sockets_seen: mpsc::Receiver<tcp::Seen>,
    reports: mpsc::Receiver<Report>,
    resolve_jobs: std_mpsc::Sender<ResolveOrder>,
    resolved: mpsc::Receiver<Resolved>,
    docker_updates: mpsc::Receiver<DockerUpdate>,
    /// Tells whoever asks Docker that it has not told of all its networks.
    unknown_networks: Arc<Notify>,
    commands: mpsc::Receiver<Command>,
    ready: watch::Sender<bool>,
    /// What another task counts, for it to be in the same snapshot.
    uplinks: Option<UplinksView>,
}

/// What is known of the engine.
#[derive(Debug, Default)]
struct Docker {
    /// None until it answered or was found absent.
    up: Option<bool>,
    /// Since when it has answered, while it does.
    since: Option<Instant>,
    version: Arc<str>,
    /// It is rootless: its networks are out of sight.
    rootless: bool,
    /// What happens is told after it did.
    is_podman: bool,
}

/// The tracker's own counters.
#[derive(Debug)]
struct Counts {
    attach_errors: BTreeMap<&'static str, u64>,
    map_update_errors: BTreeMap<&'static str, u64>,
    events_lost: BTreeMap<&'static str, u64>,
    reattached: u64,
}

impl Counts {
    fn new() -> Self {
        let maps = [
            "index",
            "owners",
            "netns_owners",
            "address_owners",
            "group_owners",
            "drops",
            "views",
            "sites",
            "peers",
            "senders",
            "flows",
            "tcp",
        ];
        Self {
            attach_errors: AttachError::REASONS
                .into_iter()
                .chain(uplinks::REASONS)
                .map(|reason| (reason, 0))
                .collect(),
            map_update_errors: maps.map(|map| (map, 0)).into(),
            events_lost: [("netlink", 0), ("cgroups", 0), ("kfree_skb", 0)].into(),
            reattached: 0,
        }
    }
}

impl Tracker {
    /// Tracks until `cancel`, then takes every program off.
    ///
    /// # Errors
    ///
    /// Where the kernel's list of interfaces or its events cannot be read any more.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let result = self.track(&cancel).await;
        Box::pin(self.stop()).await;
        result
    }

    async fn track(&mut self, cancel: &CancellationToken) -> anyhow::Result<()> {
        self.find_groups();
        self.resynchronise(OWN_NETNS, true)?;
        // Before other programs count than those that are there.
        self.settle_sites();
        for place in [OWN_NETNS, DEVICES, GROUPS] {
            self.resume(place);
        }
        self.suspect_all();
        self.record();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resynchronise = tokio::time::interval(RESYNCHRONISE);
        resynchronise.set_missed_tick_behavior(MissedTickBehavior::Delay);
        resynchronise.reset();
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.note_readiness();
        loop {
            // Every branch's future is cancel safe: it takes a message or nothing. Births before scrapes.
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                events = self.links.next() => {
                    for event in events.context("read the kernel's link events")? {
                        self.on_link(OWN_NETNS, event)?;
                    }
                }
                Some((netns, events)) = self.elsewhere.recv() => {
                    for event in events {
                        self.on_link(netns, event)?;
                    }
                }
                Some(event) = self.hidden.recv() => self.on_hidden(event)?,
                events = groups::next(&mut self.cgroups) => {
                    for event in events.context("read the events of control groups")? {
                        self.on_cgroup(event);
                    }
                }
                Some(report) = self.reports.recv() => self.on_report(report),
                Some(resolved) = self.resolved.recv() => {
                    self.on_resolved(resolved);
                    while let Ok(resolved) = self.resolved.try_recv() {
                        self.on_resolved(resolved);
                    }
                }
                Some(seen) = self.sockets_seen.recv() => self.on_sockets(seen),
                Some(update) = self.docker_updates.recv() => {
                    self.on_docker(update)?;
                    for _ in 0..self.docker_updates.len() {
                        if let Ok(update) = self.docker_updates.try_recv() {
                            self.on_docker(update)?;
                        }
                    }
                }
                Some(command) = self.commands.recv() => self.on_command(command),
                () = Looks::due(self.looks.next()) => self.look_at_suspects(),
                () = Looks::due(self.unrecorded.due()) => self.record(),
                _tick = look.tick() => {
                    self.look_around();
                    self.look_at_groups();
                }
                _tick = housekeeping.tick() => self.keep_house(Instant::now()),
                _tick = retry.tick() => self.retry()?,
                _tick = resynchronise.tick() => {
                    self.resynchronise_all()?;
                    self.find_groups();
                    self.suspect_all();
                }
            }
            if std::mem::take(&mut self.naming_due) {
                self.name_all();
            }
            self.settle_sites();
            self.record_soon();
        }
    }

    fn on_link(&mut self, netns: u32, event: LinkEvent) -> anyhow::Result<()> {
        // The last words of one that is not watched any more.
        if !self.namespaces.contains_key(&netns) {
            return Ok(());
        }
        match event {
            LinkEvent::Changed(link) => self.link_changed(netns, link, false),
            LinkEvent::Removed(link, moved_to) => self.link_removed(netns, link.ifindex, moved_to),
            LinkEvent::Filters(ifindex) => self.suspect(InterfaceKey { netns, ifindex }),
            LinkEvent::AddressAdded((ifindex, address)) if netns == OWN_NETNS => {
                self.sites.add_host_address(ifindex, address);
            }
            LinkEvent::AddressRemoved((ifindex, address)) if netns == OWN_NETNS => {
                self.sites.remove_host_address(ifindex, address);
            }
            // Nobody but who is in there can be reached by it.
            LinkEvent::AddressAdded(_) | LinkEvent::AddressRemoved(_) => {}
            LinkEvent::Overflow => {
                *self.counts.events_lost.entry("netlink").or_default() += 1;
                tracing::warn!(netns, "link events were lost, listing all interfaces again");
                self.resynchronise(netns, false)?;
                self.suspect_all();
            }
        }
        Ok(())
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Attached(attached) => self.on_attached(attached),
            Report::Looked(looked) => self.on_looked(looked),
            Report::LooksDone(netns) => self.looks.done(netns),
            Report::Loaded(loaded) => self.on_loaded(loaded),
            Report::Probed(gone) => self.on_probed(gone),
            Report::Surveyed(surveyed) => self.on_surveyed(surveyed),
        }
    }

    /// Has the thread that identifies interfaces do something.
    fn order_resolve(&self, order: ResolveOrder) {
        if self.resolve_jobs.send(order).is_err() {
            tracing::error!("the thread that identifies interfaces has ended: new ones get no names");
        }
    }

    /// Compares what is known of a watched namespace with what the kernel lists. `bulk`: much is to be expected.
    fn resynchronise(&mut self, netns: u32, bulk: bool) -> anyhow::Result<()> {
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return Ok(());
        };
        let links = match dump(&mut namespace.requests) {
            Ok(links) => links,
            // One of the engine's may be on its way out.
            Err(error) if netns != OWN_NETNS => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(netns, error, "cannot list the interfaces of a hidden network");
                return Ok(());
            }
            Err(error) => return Err(error).context("list the host's interfaces"),
        };
        if netns == OWN_NETNS {
            match dump_addresses(&mut namespace.requests) {
                Ok(addresses) => self.sites.set_host_addresses(addresses),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot list the host's addresses");
                }
            }
        }
        let present: HashSet<u32> = links.iter().map(|link| link.ifindex).collect();
        let here = |key: &InterfaceKey| (key.netns == netns).then_some(key.ifindex);
        let bridges = self.bridges.keys().copied().filter(|_bridge| netns == OWN_NETNS);
        let known = self
            .interfaces
            .keys()
            .chain(self.foreign.keys())
            .chain(&self.refused)
            .filter_map(here)
            .chain(bridges);
        let gone: Vec<u32> = known.filter(|ifindex| !present.contains(ifindex)).collect();
        for ifindex in gone {
            self.link_removed(netns, ifindex, None);
        }
        // A host end is only one once its bridge is known.
        let (bridges, others): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|link| link.kind == LinkKind::Bridge);
        for link in bridges.into_iter().chain(others) {
            self.link_changed(netns, link, bulk);
        }
        Ok(())
    }

    fn resynchronise_all(&mut self) -> anyhow::Result<()> {
        for netns in self.namespaces.keys().copied().collect::<Vec<_>>() {
            self.resynchronise(netns, false)?;
        }
        Ok(())
    }

    fn on_docker(&mut self, update: DockerUpdate) -> anyhow::Result<()> {
        let now = Instant::now();
        match update {
            DockerUpdate::Listed {
                containers,
                networks,
                version,
                is_podman,
            } => {
                if self.docker.up != Some(true) {
                    let count = containers.len();
                    let who = if is_podman { "podman" } else { "docker" };
                    tracing::info!(version = &*version, containers = count, "{who} answers");
                }
                self.docker = Docker {
                    up: Some(true),
                    since: self.docker.since.or(Some(now)),
                    version,
                    rootless: self.docker.rootless,
                    is_podman,
                };
                self.networks.listed(networks, now);
                self.sites.reconsider();
                self.containers.listed(containers, now);
                self.consider_groups();
                self.look_into_containers(now);
                self.bridges_changed()?;
            }
            DockerUpdate::About(About { rootless, .. }) => {
                if rootless && !self.docker.rootless {
                    tracing::warn!(
                        "this engine is rootless: its networks are in RootlessKit's namespace, which dtm does not see; \
                         containers on them are listed in dtm_container_uncovered and not counted"
                    );
                }
                self.docker.rootless = rootless;
            }
            DockerUpdate::Container(container) => {
                let id = container.id.clone();
                self.containers.update(container, now);
                self.claim_endpoints(&id);
                self.settle_peers(&id);
                self.consider_group(&id);
            }
            DockerUpdate::Died(id) => self.containers.died(&id, now),
            DockerUpdate::Destroyed(id) => self.containers.destroyed(&id, now),
            DockerUpdate::Network(network) => {
                self.networks.update(network);
                self.sites.reconsider();
                self.bridges_changed()?;
            }
            DockerUpdate::NetworkRemoved(id) => self.networks.remove(&id, now),
            DockerUpdate::Down(reason) => {
                if self.docker.up != Some(false) {
                    tracing::warn!(reason, "docker does not answer: counting goes on without names");
                }
                self.docker.up = Some(false);
                self.docker.since = None;
            }
        }
        self.naming_due = true;
        self.note_readiness();
        Ok(())
    }

    fn on_command(&mut self, command: Command) {
        let (mut snapshots, mut places) = (Vec::new(), Vec::new());
        // Whoever asked meanwhile gets the same pass over the maps.
        let mut next = Some(command);
        while let Some(command) = next {
            match command {
                Command::Snapshot(reply) => snapshots.push(reply),
                Command::Places(reply) => places.push(reply),
            }
            next = self.commands.try_recv().ok();
        }
        let now = Instant::now();
        if !snapshots.is_empty() {
            self.read_flows(now);
            self.read_devices(now);
        }
        // What is shown is kept.
        self.record();
        answer(snapshots, || self.snapshot(now));
        answer(places, || self.places(now));
    }

    fn keep_house(&mut self, now: Instant) {
        if self.devices_read.is_none() {
            self.read_devices(now);
        }
        self.give_up_orphans(now);
        self.ask_again(now);
        self.ask_for_networks(now);
        self.leave_foreign(now);
        self.leave_foreign_groups(now);
        self.look_at_devices(now);
        self.look_for_unseen(now);
        self.keep_spares(now);
        if self.cgroups.is_none() {
            self.find_groups();
        }
        self.give_up_nameless(now);
        self.fold_ended_slots();
        self.keep_flows(now);
        self.leave_former(now);
        if let Some(recorder) = &mut self.recorder {
            recorder.see();
        }
        self.retry_refused(now);
        let networks = &self.networks;
        let exists = |name: &str| networks.known().any(|network| &*network.name == name);
        let expired = self.containers.expire(now, self.linger, exists);
        if !expired.is_empty() {
            self.forget(&expired);
            self.freed.note();
        }
        self.expire_networks(now);
        if self.freed.is_due(now) {
            self.interfaces.shrink();
            self.containers.shrink();
            memory::give_back();
        }
    }

    /// dtm is not ready before this has been attached to, or could not be.
    fn await_attachment(&mut self, key: InterfaceKey) {
        if !*self.ready.borrow() {
            self.starting.insert(key);
        }
    }

    fn note_readiness(&mut self) {
        let attached = self.starting.is_empty()
            && self.hidden_listed
            && !self.devices.are_looked_for()
            && (self.takeover != Takeover::default() || self.spares.are_there());
        if attached && self.docker.up.is_some() && !*self.ready.borrow() {
            tracing::info!(interfaces = self.interfaces.len(), "ready");
            self.ready.send_replace(true);
        }
    }

    /// Notes that a map could not be updated, where that is so.
    fn check_map(&mut self, map: &'static str, result: Result<(), MapError>) {
        if let Err(error) = result {
            self.count_map_error(map, &error);
        }
    }

    fn count_map_error(&mut self, map: &'static str, error: &MapError) {
        *self.counts.map_update_errors.entry(map).or_default() += 1;
        let error = error as &dyn std::error::Error;
        tracing::warn!(map, error, "cannot update a map");
    }
}

/// Answers all who ask for the same.
fn answer<T>(waiting: Vec<oneshot::Sender<Arc<T>>>, make: impl FnOnce() -> T) {
    if waiting.is_empty() {
        return;
    }
    let answer = Arc::new(make());
    for reply in waiting {
        // A client that went away does not want its answer.
        drop(reply.send(Arc::clone(&answer)));
    }
}
