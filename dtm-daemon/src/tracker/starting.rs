//! How the tracker comes to be: its sockets, its threads, and what it starts with.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    CHANNEL, Counts, Docker, Tracker, TrackerHandle, Traffic,
    claims::Claims,
    containers::Containers,
    devices::{self, Devices},
    flows::Flows,
    groups::{self, Groups},
    hidden,
    interfaces::OWN_NETNS,
    mending::Looks,
    namespaces,
    networks::Networks,
    noted::Noted,
    recording::{Recorder, Unrecorded},
    records::Clock,
    resolving::{self, ResolveOrder, Resolved, View},
    restoring::{Left, Takeover},
    sites::Sites,
    slots::Slots,
    spares::{Lasting, Spares},
    tcp,
    unseen::Unseen,
};
use crate::{
    bpf::{Kept, Kernel, Pins, tcx_is_supported},
    config::AttachMode,
    docker::DockerUpdate,
    memory::Freed,
    net::LinkWatch,
    uplinks::UplinksView,
};

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
    /// Whether nothing is to outlive the process.
    pub no_pin: bool,
    /// What to show of uplinks, where any are named.
    pub uplinks: Option<UplinksView>,
}

impl Tracker {
    /// Subscribes to the interfaces of the calling thread's network namespace, takes over what an earlier process has left
    /// and starts the threads. Nothing is attached before [`Tracker::run`].
    #[expect(
        clippy::too_many_lines,
        reason = "a tracker has many parts, one after the other"
    )]
    pub fn start(
        mut kernel: Kernel,
        kept: Option<Kept>,
        settings: Settings,
        docker_updates: mpsc::Receiver<DockerUpdate>,
        unknown_networks: Arc<Notify>,
    ) -> anyhow::Result<(Self, TrackerHandle)> {
        let Settings {
            attach_mode,
            linger,
            procfs,
            docker_netns,
            no_pin,
            uplinks,
        } = settings;
        let clock = Clock::new();
        let pins = kept.as_ref().map(|kept| Arc::new(kept.pins.clone()));
        let lasting = pins.clone().filter(|_pins| !no_pin);
        let (report, reports) = mpsc::channel(CHANNEL);
        let template = kernel.template();
        let means = devices::Means {
            template: Arc::clone(&template),
            attach_mode,
            procfs: procfs.clone(),
            report: report.clone(),
            pins: lasting.clone(),
        };
        let own = namespaces::open(OWN_NETNS, None, kernel.classifiers()?, means.clone())?;
        let links = LinkWatch::new(own.subscription).context("read the kernel's link events")?;
        let own_netns = File::open("/proc/thread-self/ns/net").context("open dtm's own network namespace")?;
        let (resolve_jobs, resolved) = start_resolving(procfs.clone(), docker_netns.clone(), own.view)?;
        let (tell_hidden, hidden) = mpsc::channel(CHANNEL);
        // Before the groups that exist are looked at.
        let cgroups = groups::watch(&mut kernel);
        let groups = Groups::start(&procfs, Arc::clone(&template), report.clone(), lasting.clone())
            .context("start the thread that attaches to control groups")?;
        let has_round_trips = listen_to_connections(&mut kernel, &groups);
        let (sockets, sockets_seen) = tcp::Looks::start(&mut kernel, procfs.clone())?;
        let shelf = lasting.clone().map(|pins| Lasting {
            pins,
            program: kernel.program,
        });
        let spares =
            Spares::start(template, shelf, report).context("start the thread that loads programs")?;
        let (tell_elsewhere, elsewhere) = mpsc::channel(CHANNEL);
        let (command_sender, commands) = mpsc::channel(CHANNEL);
        let (ready, is_ready) = watch::channel(false);
        let mut tracker = Self {
            slots: Slots::new(kernel.counters.slots()),
            linger,
            interfaces: Noted::default(),
            bridges: HashMap::new(),
            foreign: HashMap::new(),
            refused: BTreeSet::new(),
            peers_here: HashMap::new(),
            orphans: Vec::new(),
            ended_slots: Vec::new(),
            naming_due: false,
            containers: Containers::default(),
            networks: Networks::default(),
            addresses: Claims::new(),
            sites: Sites::new(),
            flows: Flows::default(),
            devices_read: None,
            last_generation: 0,
            unattributed: Traffic::default(),
            past_drops: BTreeMap::new(),
            docker: Docker::default(),
            unseen: Unseen::default(),
            counts: Counts::new(),
            features: features(
                &kernel,
                &groups,
                cgroups.is_some(),
                lasting.is_some(),
                has_round_trips,
            ),
            kernel,
            former: None,
            recorder: None,
            unrecorded: Unrecorded::default(),
            takeover: Takeover::default(),
            left_hidden: BTreeMap::new(),
            unwatched: Duration::ZERO,
            looks: Looks::default(),
            freed: Freed::default(),
            unindexed: false,
            starting: HashSet::new(),
            namespaces: BTreeMap::from([(OWN_NETNS, own.watched)]),
            links,
            own_netns,
            elsewhere,
            tell_elsewhere,
            groups,
            cgroups,
            devices: Devices::new(means.clone()),
            spares,
            hidden,
            hidden_listed: false,
            sockets,
            sockets_seen,
            reports,
            resolve_jobs,
            resolved,
            docker_updates,
            unknown_networks,
            commands,
            ready,
            uplinks,
        };
        if let (Some(kept), Some(pins)) = (kept, pins) {
            tracker.take_over(kept, &pins, no_pin, clock);
        }
        let taken = tracker.left_hidden.values();
        let taken = taken.map(|hidden| (hidden.inode, hidden.number)).collect();
        hidden::spawn(docker_netns, means, taken, tell_hidden);
        Ok((tracker, TrackerHandle::new(command_sender, is_ready)))
    }

    /// Takes over what an earlier process has left, and keeps the journal from now on: unless nothing is to outlive this
    /// one.
    fn take_over(&mut self, kept: Kept, pins: &Arc<Pins>, no_pin: bool, clock: Clock) {
        let Kept {
            pins: _,
            journal,
            found,
            obsolete,
        } = kept;
        let left = found
            .as_ref()
            .map(|found| Left::read(&found.entries))
            .unwrap_or_default();
        let recorder = Recorder::new(Arc::clone(pins), journal, clock, &left);
        if let Some(found) = found {
            self.restore(found, left, pins, clock);
        }
        if no_pin {
            self.unpin(pins);
        } else {
            self.recorder = Some(recorder);
            self.record_all();
        }
        for pins in obsolete {
            let directory = pins.directory().display();
            match pins.remove() {
                Ok(_removed) => tracing::info!(%directory, "pins of no use are removed"),
                Err(error) => tracing::warn!(%directory, %error, "cannot remove pins of no use"),
            }
        }
    }
}

/// Has connections tell of themselves, where that can be; whether they tell of their round trips.
fn listen_to_connections(kernel: &mut Kernel, groups: &Groups) -> bool {
    if let Err(error) = kernel.listen_to_connections(groups.root()) {
        let error = format_args!("{error:#}");
        tracing::warn!(error, "TCP connections are not counted");
    }
    kernel.tcp.is_some() && kernel.limits.round_trips
}

/// Starts the threads that identify interfaces, and gives them their view of dtm's own namespace.
fn start_resolving(
    procfs: PathBuf,
    docker_netns: PathBuf,
    view: View,
) -> anyhow::Result<(std_mpsc::Sender<ResolveOrder>, mpsc::Receiver<Resolved>)> {
    let (jobs, queue) = std_mpsc::channel();
    let (results, resolved) = mpsc::channel(CHANNEL);
    resolving::spawn(procfs, docker_netns, queue, results)
        .context("start the threads that identify interfaces")?;
    jobs.send(ResolveOrder::Open(OWN_NETNS, view))
        .context("the thread that identifies interfaces has ended")?;
    Ok((jobs, resolved))
}

/// What the host offers, by the `feature` label.
fn features(
    kernel: &Kernel,
    groups: &Groups,
    has_cgroup_events: bool,
    has_pins: bool,
    has_round_trips: bool,
) -> BTreeMap<&'static str, bool> {
    BTreeMap::from([
        ("drops", kernel.drops.is_some()),
        ("drop_reasons", kernel.reasons.not_specified().is_some()),
        ("tcx", tcx_is_supported()),
        ("cgroup_v2", groups.are_there()),
        ("cgroup_events", has_cgroup_events),
        ("pins", has_pins),
        ("tcp", kernel.tcp.is_some()),
        ("tcp_rtt", has_round_trips),
    ])
}
