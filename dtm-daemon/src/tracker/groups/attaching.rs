//! The thread that attaches to groups: the kernel lets nobody make, remove or attach to one meanwhile.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use dtm_common::traffic::Direction;
use tokio::sync::mpsc as tokio_mpsc;

use crate::{
    bpf::{AttachError, Attachment, CgroupLink, Pins, Template},
    net::Hierarchy,
    tracker::{
        attaching::{Attached, Generation, Report},
        spares::{Kind, Pair, Programs},
    },
};

/// What the thread is asked to do.
pub(in crate::tracker) enum GroupJob {
    /// Attach to the group with this path: with these programs, where they are loaded.
    Attach {
        generation: Generation,
        path: PathBuf,
        programs: Option<Programs>,
    },
    /// Take an attachment off.
    Detach(Attachment),
}

/// Does what is asked until the channel is closed.
pub(super) fn work(
    template: &Template,
    hierarchy: Option<&Hierarchy>,
    jobs: &mpsc::Receiver<GroupJob>,
    report: &tokio_mpsc::Sender<Report>,
    pins: Option<&Arc<Pins>>,
) {
    for job in jobs {
        match job {
            GroupJob::Attach {
                generation,
                path,
                programs,
            } => {
                let result = attach(template, hierarchy, &path, generation.slot, programs);
                let result = result.map(|mut attachment| {
                    generation.pin(&mut attachment, pins);
                    attachment
                });
                // A tracker that is gone does not want to know, and what was attached goes.
                drop(report.blocking_send(Report::Attached(Attached { generation, result })));
            }
            // Here, for it waits for whoever makes and removes groups.
            GroupJob::Detach(attachment) => drop(attachment),
        }
    }
}

fn attach(
    template: &Template,
    hierarchy: Option<&Hierarchy>,
    path: &Path,
    slot: u32,
    programs: Option<Programs>,
) -> Result<Attachment, AttachError> {
    let group = hierarchy.map_or(Err(io::ErrorKind::NotFound.into()), |hierarchy| {
        hierarchy.group(path)
    });
    let group = group.map_err(refusal)?;
    let programs = programs.map_or_else(|| Kind::Group.load(template, slot), Ok);
    let programs = programs.map_err(AttachError::Program)?;
    let Pair {
        transmit, receive, ..
    } = &*programs;
    let link = |program: &OwnedFd, direction| {
        CgroupLink::create(program.as_fd(), group.as_fd(), direction).map_err(refusal)
    };
    Ok(Attachment::Cgroup {
        transmit: link(transmit, Direction::Transmit)?,
        receive: link(receive, Direction::Receive)?,
    })
}

fn refusal(error: io::Error) -> AttachError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV) => AttachError::Gone,
        Some(libc::EPERM) => AttachError::Exclusive,
        _ if error.kind() == io::ErrorKind::NotFound => AttachError::Gone,
        _ => AttachError::Cgroup(error),
    }
}
