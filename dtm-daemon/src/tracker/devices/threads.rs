//! What threads of their own do for containers' own devices: attach to them, look for them, ask where they are.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::Context as _;
use dtm_common::index::InterfaceKey;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    bpf::{AttachError, Attacher, Attachment, Pins, Side, TcxProbe, Template},
    config::AttachMode,
    docker::ContainerId,
    net::{Link, Peer, Processes, Requests, device, dump, enter, open_netns},
    tracker::{
        attaching::{Attached, Generation, Report},
        spares::{Kind, Programs},
    },
};

/// What the threads need.
#[derive(Clone)]
pub(in crate::tracker) struct Means {
    pub(in crate::tracker) template: Arc<Template>,
    pub(in crate::tracker) attach_mode: AttachMode,
    pub(in crate::tracker) procfs: PathBuf,
    pub(in crate::tracker) report: mpsc::Sender<Report>,
    pub(in crate::tracker) pins: Option<Arc<Pins>>,
}

/// Where a device is, once that is known: a process of its namespace, and the namespace's inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::tracker) struct Inside {
    pub(in crate::tracker) process: i32,
    pub(in crate::tracker) inode: u64,
    pub(in crate::tracker) ifindex: u32,
}

/// Where to attach to a device.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the host's namespace, by its index there.
    Here(u32),
    /// In a container's.
    Inside(Inside),
}

/// A device that is about to be attached to.
pub(super) struct Birth {
    pub(super) generation: Generation,
    /// Where some were ready.
    pub(super) programs: Option<Programs>,
}

/// The devices in a container's namespace.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(super) container: ContainerId,
    pub(super) process: i32,
    pub(super) inode: u64,
    pub(super) devices: Vec<(Link, Peer)>,
}

impl Means {
    /// Enters a namespace for good, and prepares to attach there.
    fn attacher_inside(&self, inside: Inside, programs: &Programs) -> anyhow::Result<Attacher> {
        enter_namespace(&self.procfs, inside.process, inside.inode)?;
        Self::attacher(programs, self.attach_mode)
    }

    fn attacher(programs: &Programs, attach_mode: AttachMode) -> anyhow::Result<Attacher> {
        let (transmit, receive) = (programs.transmit.try_clone()?, programs.receive.try_clone()?);
        let attacher =
            Attacher::new(transmit, receive, attach_mode).context("open a netlink socket to attach with")?;
        Ok(attacher.at(Side::OwnDevice))
    }

    /// Attaches in a thread of its own, and reports.
    pub(super) fn attach(self, birth: Birth, place: Place) {
        let report = self.report.clone();
        let attach = move || {
            let Birth { generation, programs } = birth;
            let programs = programs.map_or_else(|| Kind::Device.load(&self.template, generation.slot), Ok);
            let (attacher, ifindex) = match place {
                Place::Inside(inside) => (
                    programs.and_then(|programs| self.attacher_inside(inside, &programs)),
                    inside.ifindex,
                ),
                // A filter would not survive the move.
                Place::Here(ifindex) => (
                    programs.and_then(|programs| Self::attacher(&programs, AttachMode::Tcx)),
                    ifindex,
                ),
            };
            let result = attacher
                .map_err(AttachError::Program)
                .and_then(|mut attacher| attacher.attach(ifindex, false))
                .map(|mut attachment| {
                    generation.pin(&mut attachment, self.pins.as_ref());
                    attachment
                });
            // A tracker that is gone does not want to know, and what was attached goes.
            drop(report.blocking_send(Report::Attached(Attached { generation, result })));
        };
        drop(spawn("dtm-device", attach));
    }

    /// Has filters of an earlier dtm inside a container run this one's programs, in a thread of its own, and reports.
    pub(super) fn renew(self, generation: Generation, attachment: Attachment, inside: Inside) {
        let report = self.report.clone();
        let renew = move || {
            let programs = Kind::Device.load(&self.template, generation.slot);
            let attacher = programs.and_then(|programs| self.attacher_inside(inside, &programs));
            let result = attacher
                .map_err(AttachError::Program)
                .and_then(|mut attacher| attacher.renew(inside.ifindex, attachment));
            drop(report.blocking_send(Report::Attached(Attached { generation, result })));
        };
        drop(spawn("dtm-device", renew));
    }

    /// Takes an attachment off, in a thread of its own; a filter is taken off where it is, if that is still there.
    pub(super) fn detach(
        self,
        attachment: Attachment,
        inside: Option<Inside>,
    ) -> Option<thread::JoinHandle<()>> {
        let detach = move || match (attachment, inside) {
            (attachment @ Attachment::Clsact { .. }, Some(inside)) => {
                let result = enter_namespace(&self.procfs, inside.process, inside.inode)
                    .and_then(|()| Ok(attachment.detach(&mut Requests::open()?)?));
                if let Err(error) = result {
                    let error = format_args!("{error:#}");
                    tracing::debug!(error, "cannot take a program off a container's own device");
                }
            }
            (attachment, _) => drop(attachment),
        };
        spawn("dtm-device", detach)
    }

    /// Asks where the devices of these links are, which waits for RTNL, and reports which are gone.
    pub(super) fn probe(self, links: Vec<(InterfaceKey, TcxProbe)>) {
        let report = self.report;
        let probe = move || {
            let is_gone = |probe: &TcxProbe| matches!(probe.ifindex(), Ok(None));
            let gone = links.into_iter().filter(|(_key, probe)| is_gone(probe));
            let gone = gone.map(|(key, _probe)| key).collect();
            drop(report.blocking_send(Report::Probed(gone)));
        };
        drop(spawn("dtm-probe", probe));
    }

    /// Looks into containers, and reports.
    pub(super) fn survey(self, containers: Vec<ContainerId>) {
        let report = self.report.clone();
        let survey = move || {
            let surveyed = survey(&self.procfs, &containers).unwrap_or_else(|error| {
                let error = format_args!("{error:#}");
                tracing::warn!(error, "cannot look for containers' own devices");
                Vec::new()
            });
            drop(report.blocking_send(Report::Surveyed(surveyed)));
        };
        drop(spawn("dtm-survey", survey));
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Option<thread::JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread
        .inspect_err(|error| tracing::warn!(%error, "cannot start a thread for a container's own device"))
        .ok()
}

/// Moves the calling thread into the namespace a process is in, if that is still the one with this inode.
fn enter_namespace(procfs: &Path, process: i32, inode: u64) -> anyhow::Result<()> {
    let netns: File = open_netns(procfs, process).context("open a container's network namespace")?;
    if netns.metadata()?.ino() != inode {
        return Err(io::Error::from(io::ErrorKind::NotFound)).context("the container's process has ended");
    }
    enter(netns.as_fd()).context("enter a container's network namespace")
}

/// The devices of containers' own, in the namespaces of these.
fn survey(procfs: &Path, containers: &[ContainerId]) -> anyhow::Result<Vec<Surveyed>> {
    let mut processes = Processes::new(procfs.to_owned())?;
    let namespaces = processes
        .scan(|_pid, _inode| ())
        .context("list the host's processes")?;
    let mut surveyed = Vec::new();
    for namespace in namespaces {
        let of_container = |id: &&ContainerId| namespace.containers.iter().any(|found| found == id.full());
        let Some(container) = containers.iter().find(of_container) else {
            continue;
        };
        let devices = enter_namespace(procfs, namespace.pid, namespace.inode).and_then(|()| own_devices());
        match devices {
            Ok(devices) => surveyed.push(Surveyed {
                container: container.clone(),
                process: namespace.pid,
                inode: namespace.inode,
                devices,
            }),
            Err(error) => {
                let error = format_args!("{error:#}");
                tracing::debug!(%container, error, "cannot look into a container's namespace");
            }
        }
    }
    Ok(surveyed)
}

/// Those of the calling thread's namespace.
fn own_devices() -> anyhow::Result<Vec<(Link, Peer)>> {
    let mut requests = Requests::open()?;
    let mut devices = Vec::new();
    for link in dump(&mut requests)?.into_iter().filter(Link::is_own_device) {
        let peer = device(&mut requests, &link)?;
        devices.push((link, peer));
    }
    Ok(devices)
}
