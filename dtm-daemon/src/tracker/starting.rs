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
    groups::{self, Groups},
    hidden,
    interfaces::OWN_NETNS,
    mending::Looks,
    namespaces,
    networks::Networks,
    resolving::{self, ResolveOrder},
    slots::Slots,
    spares::Spares,
    unseen::Unseen,
};
use crate::{
    bpf::{Kernel, tcx_is_supported},
    config::AttachMode,
    docker::DockerUpdate,
    memory::Freed,
    net::LinkWatch,
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
        let (report, reports) = mpsc::channel(CHANNEL);
        let own = namespaces::open(
            OWN_NETNS,
            None,
            kernel.classifiers()?,
            attach_mode,
            report.clone(),
        )?;
        let links = LinkWatch::new(own.subscription).context("read the kernel's link events")?;
        let own_netns = File::open("/proc/thread-self/ns/net").context("open dtm's own network namespace")?;
        let (resolve_jobs, resolve_queue) = std_mpsc::channel();
        let (resolve_results, resolved) = mpsc::channel(CHANNEL);
        resolving::spawn(
            procfs.clone(),
            docker_netns.clone(),
            resolve_queue,
            resolve_results,
        )
        .context("start the threads that identify interfaces")?;
        resolve_jobs
            .send(ResolveOrder::Open(OWN_NETNS, own.view))
            .context("the thread that identifies interfaces has ended")?;
        let (tell_hidden, hidden) = mpsc::channel(CHANNEL);
        let template = kernel.template();
        // Before the groups that exist are looked at.
        let cgroups = groups::watch(&mut kernel);
        let groups = Groups::start(&procfs, Arc::clone(&template), report.clone())
            .context("start the thread that attaches to control groups")?;
        let spares = Spares::start(Arc::clone(&template), report.clone())
            .context("start the thread that loads programs")?;
        let means = devices::Means {
            template,
            attach_mode,
            procfs: procfs.clone(),
            report,
        };
        hidden::spawn(docker_netns, means.clone(), tell_hidden);
        let (tell_elsewhere, elsewhere) = mpsc::channel(CHANNEL);
        let (command_sender, commands) = mpsc::channel(CHANNEL);
        let (ready, is_ready) = watch::channel(false);
        let tracker = Self {
            slots: Slots::new(kernel.counters.slots()),
            linger,
            interfaces: HashMap::new(),
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
            last_generation: 0,
            unattributed: Traffic::default(),
            past_drops: BTreeMap::new(),
            docker: Docker::default(),
            unseen: Unseen::default(),
            counts: Counts::new(),
            features: BTreeMap::from([
                ("drops", kernel.drops.is_some()),
                ("drop_reasons", kernel.reasons.not_specified().is_some()),
                ("tcx", tcx_is_supported()),
                ("cgroup_v2", groups.are_there()),
                ("cgroup_events", cgroups.is_some()),
            ]),
            kernel,
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
            devices: Devices::new(means),
            spares,
            hidden,
            hidden_listed: false,
            reports,
            resolve_jobs,
            resolved,
            docker_updates,
            unknown_networks,
            commands,
            ready,
        };
        Ok((tracker, TrackerHandle::new(command_sender, is_ready)))
    }
}
