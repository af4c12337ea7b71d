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
mod drops;
mod handle;
mod infrastructure;
mod interfaces;
mod links;
mod mending;
mod nameless;
mod names;
mod naming;
mod networks;
mod reading;
mod resolving;
mod slots;
mod snapshot;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::maps::MapError;
use dtm_common::drops::Address;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use self::{
    attaching::{AttachJob, Report},
    claims::Claims,
    containers::Containers,
    drops::EndedSlot,
    handle::Command,
    interfaces::{AttachmentState, Interface},
    mending::{LOOK, Looks},
    nameless::Orphan,
    networks::Networks,
    resolving::{ResolveJob, Resolved},
    slots::Slots,
};
pub use self::{
    handle::{TrackerHandle, TrackerStopped},
    infrastructure::Infrastructure,
    snapshot::{
        ContainerSnapshot, DropSnapshot, InterfaceSnapshot, NetworkSnapshot, Snapshot, Status, Traffic,
    },
};
use crate::{
    bpf::{AttachError, Attacher, Kernel, tcx_is_supported},
    config::AttachMode,
    docker::DockerUpdate,
    memory::{self, Freed},
    net::{Link, LinkEvent, LinkKind, LinkWatch, Requests, dump},
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

/// What the tracker is made from.
#[derive(Debug)]
pub struct Settings {
    /// How to attach.
    pub attach_mode: AttachMode,
    /// How long totals of what ended stay.
    pub linger: Duration,
    /// Where `/proc` is mounted.
    pub procfs: PathBuf,
    /// Where the engine mounts the namespaces it made.
    pub docker_netns: PathBuf,
}

/// The owner of the state. [`Tracker::run`] is its life.
pub struct Tracker {
    kernel: Kernel,
    linger: Duration,
    slots: Slots,
    interfaces: HashMap<u32, Interface>,
    /// Every bridge there is, by index.
    bridges: HashMap<u32, Link>,
    /// Host ends on bridges that are not Docker's, with their bridge: not attached to.
    foreign: HashMap<u32, u32>,
    /// Interfaces that found every slot in use.
    refused: BTreeSet<u32>,
    /// Pairs with both ends in this namespace: the host end by the other, which may yet leave.
    both_here: HashMap<u32, u32>,
    orphans: Vec<Orphan>,
    ended_slots: Vec<EndedSlot>,
    /// Something happened that may lead to a name. Looked for once for all that happens at a time: it is a pass over
    /// all interfaces.
    naming_due: bool,
    containers: Containers,
    networks: Networks,
    addresses: Claims<Address>,
    last_generation: u64,
    unattributed: Traffic,
    /// Drops by reason of containers and orphans that are forgotten: (all, those of nobody).
    past_drops: BTreeMap<u32, (u64, u64)>,
    docker: Docker,
    counts: Counts,
    features: BTreeMap<&'static str, bool>,
    looks: Looks,
    freed: Freed,
    /// An interface got none of the kernel side's entries.
    unindexed: bool,
    /// Attach jobs of the start that are not done.
    starting: Option<HashSet<u32>>,
    requests: Requests,
    links: LinkWatch,
    attach_jobs: std_mpsc::Sender<AttachJob>,
    reports: mpsc::Receiver<Report>,
    attach_thread: thread::JoinHandle<()>,
    resolve_jobs: std_mpsc::Sender<ResolveJob>,
    resolved: mpsc::Receiver<Resolved>,
    docker_updates: mpsc::Receiver<DockerUpdate>,
    /// Tells whoever asks Docker that it has not told of all its networks.
    unknown_networks: Arc<Notify>,
    commands: mpsc::Receiver<Command>,
    ready: watch::Sender<bool>,
}

/// What is known of the engine.
#[derive(Debug, Default)]
struct Docker {
    /// None until it answered or was found absent.
    up: Option<bool>,
    /// Since when it has answered, while it does.
    since: Option<Instant>,
    version: Arc<str>,
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
        let maps = ["index", "owners", "netns_owners", "address_owners", "drops"];
        Self {
            attach_errors: AttachError::REASONS.map(|reason| (reason, 0)).into(),
            map_update_errors: maps.map(|map| (map, 0)).into(),
            events_lost: [("netlink", 0)].into(),
            reattached: 0,
        }
    }
}

impl Tracker {
    /// Subscribes to the interfaces of the calling thread's network namespace and starts the threads. Nothing is
    /// attached before [`Tracker::run`].
    pub fn start(
        mut kernel: Kernel,
        settings: Settings,
        docker_updates: mpsc::Receiver<DockerUpdate>,
        unknown_networks: Arc<Notify>,
    ) -> anyhow::Result<(Self, TrackerHandle)> {
        let Settings {
            attach_mode,
            linger,
            procfs,
            docker_netns,
        } = settings;
        let (transmit, receive) = kernel.classifiers()?;
        let attacher =
            Attacher::new(transmit, receive, attach_mode).context("open a netlink socket to attach with")?;
        let links = LinkWatch::open(attacher.port()?).context("subscribe to the kernel's link events")?;
        let (attach_jobs, attach_queue) = std_mpsc::channel();
        let (sender, reports) = mpsc::channel(CHANNEL);
        let attach_thread =
            attaching::spawn(attacher, attach_queue, sender).context("start the thread that attaches")?;
        let (resolve_jobs, resolve_queue) = std_mpsc::channel();
        let (resolve_results, resolved) = mpsc::channel(CHANNEL);
        resolving::spawn(procfs, docker_netns, resolve_queue, resolve_results)?;
        let (command_sender, commands) = mpsc::channel(CHANNEL);
        let (ready, is_ready) = watch::channel(false);
        let features = BTreeMap::from([
            ("drops", kernel.drops.is_some()),
            ("drop_reasons", kernel.reasons.not_specified().is_some()),
            ("tcx", tcx_is_supported()),
        ]);
        let tracker = Self {
            slots: Slots::new(kernel.counters.slots()),
            kernel,
            linger,
            interfaces: HashMap::new(),
            bridges: HashMap::new(),
            foreign: HashMap::new(),
            refused: BTreeSet::new(),
            both_here: HashMap::new(),
            orphans: Vec::new(),
            ended_slots: Vec::new(),
            naming_due: false,
            containers: Containers::default(),
            networks: Networks::default(),
            addresses: Claims::new(),
            last_generation: 0,
            unattributed: Traffic::default(),
            past_drops: BTreeMap::new(),
            docker: Docker::default(),
            counts: Counts::new(),
            features,
            looks: Looks::default(),
            freed: Freed::default(),
            unindexed: false,
            starting: None,
            requests: Requests::open().context("open a netlink socket to list interfaces with")?,
            links,
            attach_jobs,
            reports,
            attach_thread,
            resolve_jobs,
            resolved,
            docker_updates,
            unknown_networks,
            commands,
            ready,
        };
        Ok((tracker, TrackerHandle::new(command_sender, is_ready)))
    }

    /// Tracks until `cancel`, then takes every program off.
    ///
    /// # Errors
    ///
    /// Where the kernel's list of interfaces or its events cannot be read any more.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let result = self.track(&cancel).await;
        self.stop().await;
        result
    }

    async fn track(&mut self, cancel: &CancellationToken) -> anyhow::Result<()> {
        self.resynchronise(true)?;
        self.starting = Some(self.interfaces.keys().copied().collect());
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
                        self.on_link(event)?;
                    }
                }
                Some(report) = self.reports.recv() => self.on_report(report),
                Some(resolved) = self.resolved.recv() => {
                    self.on_resolved(resolved);
                    while let Ok(resolved) = self.resolved.try_recv() {
                        self.on_resolved(resolved);
                    }
                }
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
                _tick = look.tick() => self.look_around(),
                _tick = housekeeping.tick() => self.keep_house(Instant::now()),
                _tick = retry.tick() => self.retry()?,
                _tick = resynchronise.tick() => {
                    self.resynchronise(false)?;
                    self.suspect_all();
                }
            }
            if std::mem::take(&mut self.naming_due) {
                self.name_all();
            }
        }
    }

    fn on_link(&mut self, event: LinkEvent) -> anyhow::Result<()> {
        match event {
            LinkEvent::Changed(link) => self.link_changed(link, false),
            LinkEvent::Removed(link, moved_to) => self.link_removed(link.ifindex, moved_to),
            LinkEvent::Filters(ifindex) => self.suspect(ifindex),
            LinkEvent::Overflow => {
                *self.counts.events_lost.entry("netlink").or_default() += 1;
                tracing::warn!("link events were lost, listing all interfaces again");
                self.resynchronise(false)?;
                self.suspect_all();
            }
        }
        Ok(())
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Attached(attached) => self.on_attached(attached),
            Report::Looked(looked) => self.on_looked(looked),
            Report::LooksDone => self.looks.done(),
        }
    }

    /// Compares what is known with what the kernel lists. `bulk`: much is to be expected.
    fn resynchronise(&mut self, bulk: bool) -> anyhow::Result<()> {
        let links = dump(&mut self.requests).context("list the host's interfaces")?;
        let present: HashSet<u32> = links.iter().map(|link| link.ifindex).collect();
        let known = self
            .interfaces
            .keys()
            .chain(self.bridges.keys())
            .chain(self.foreign.keys())
            .chain(&self.refused);
        let gone: Vec<u32> = known
            .copied()
            .filter(|ifindex| !present.contains(ifindex))
            .collect();
        for ifindex in gone {
            self.link_removed(ifindex, None);
        }
        // A host end is only one once its bridge is known.
        let (bridges, others): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|link| link.kind == LinkKind::Bridge);
        for link in bridges.into_iter().chain(others) {
            self.link_changed(link, bulk);
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
            } => {
                if self.docker.up != Some(true) {
                    let count = containers.len();
                    tracing::info!(version = &*version, containers = count, "docker answers");
                }
                self.docker = Docker {
                    up: Some(true),
                    since: self.docker.since.or(Some(now)),
                    version,
                };
                self.networks.listed(networks, now);
                self.containers.listed(containers, now);
                self.bridges_changed()?;
            }
            DockerUpdate::Container(container) => {
                let id = container.id.clone();
                self.containers.update(container, now);
                self.claim_endpoints(&id);
            }
            DockerUpdate::Died(id) => self.containers.died(&id, now),
            DockerUpdate::Destroyed(id) => self.containers.destroyed(&id, now),
            DockerUpdate::Network(network) => {
                self.networks.update(network);
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
        let Command::Snapshot(first) = command;
        let mut waiting = vec![first];
        // Whoever asked meanwhile gets the same pass over the maps.
        while let Ok(Command::Snapshot(reply)) = self.commands.try_recv() {
            waiting.push(reply);
        }
        let snapshot = Arc::new(self.snapshot(Instant::now()));
        for reply in waiting {
            // A client that went away does not want its answer.
            drop(reply.send(Arc::clone(&snapshot)));
        }
    }

    fn keep_house(&mut self, now: Instant) {
        self.give_up_orphans(now);
        self.ask_again(now);
        self.ask_for_networks(now);
        self.leave_foreign(now);
        self.give_up_nameless(now);
        self.fold_ended_slots();
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
            memory::give_back();
        }
    }

    fn note_readiness(&mut self) {
        let attached = self.starting.as_ref().is_some_and(HashSet::is_empty);
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

    /// Takes every program off and waits until that is done.
    async fn stop(self) {
        let Self {
            interfaces,
            attach_jobs,
            mut reports,
            attach_thread,
            ..
        } = self;
        // Births under way find nobody to report to and are taken off by the thread; those that were reported and not
        // taken in yet are known to nobody else.
        reports.close();
        let mut attachments = Vec::new();
        while let Some(report) = reports.recv().await {
            if let Report::Attached(attached) = report {
                attachments.extend(attached.result.ok());
            }
        }
        attachments.extend(
            interfaces
                .into_values()
                .filter_map(|interface| match interface.attachment {
                    AttachmentState::Attached(attachment) => Some(attachment),
                    AttachmentState::Attaching | AttachmentState::Failed { .. } => None,
                }),
        );
        for attachment in attachments {
            // The thread lives as long as this sender does.
            drop(attach_jobs.send(AttachJob::Detach(attachment)));
        }
        drop(attach_jobs);
        if attach_thread.join().is_err() {
            tracing::error!("the thread that attaches panicked; some programs may be left attached");
        }
    }
}
