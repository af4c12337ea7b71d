//! What a thread that attaches does, one in each watched namespace: a TCX attach waits for RCU grace periods, and all of
//! it for whoever holds RTNL, which nobody else should.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
};

use dtm_common::index::InterfaceKey;
use tokio::sync::mpsc as tokio_mpsc;

use super::{devices::Surveyed, spares::Loaded};
use crate::bpf::{AttachError, Attacher, Attachment, Pins, Place, Standing};

/// An interface at one time of its life: an index may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Generation {
    /// Its namespace and index.
    pub(crate) key: InterfaceKey,
    /// dtm's own number for this life of it, never used again.
    pub(crate) number: u64,
    /// The slot that counts for it.
    pub(crate) slot: u32,
}

impl Generation {
    /// Has an attachment outlive this process, where there is a place for that.
    pub(super) fn pin(self, attachment: &mut Attachment, pins: Option<&Arc<Pins>>) {
        let Some(pins) = pins else { return };
        if let Err(error) = attachment.pin(pins, self.slot, self.number) {
            tracing::warn!(%error, "an attachment cannot be pinned: it ends with this process");
        }
    }
}

/// What the thread is asked to do.
#[derive(Debug)]
pub(crate) enum AttachJob {
    /// Attach to an interface; `bulk` where many are to come.
    Attach { generation: Generation, bulk: bool },
    /// Attach again where only this is left of an attachment.
    Mend {
        generation: Generation,
        rest: Attachment,
    },
    /// Have an attachment of an earlier dtm run this one's programs.
    Renew {
        generation: Generation,
        attachment: Attachment,
    },
    /// Take an attachment off.
    Detach(Attachment),
    /// Look at these, then say that it is done.
    Look(Vec<Look>),
}

/// An attachment to look at.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) generation: Generation,
    pub(crate) place: Place,
    /// Whether filters are listed too, see [`Attacher::look`].
    pub(crate) thorough: bool,
    /// How it stood last time: what has not changed is not told.
    pub(crate) known: Standing,
}

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// How an [`AttachJob::Attach`] or an [`AttachJob::Mend`] went.
    Attached(Attached),
    /// How an attachment stands, where that has changed.
    Looked(Looked),
    /// Programs were loaded ahead of need.
    Loaded(Loaded),
    /// Devices of containers' own that are gone.
    Probed(Vec<InterfaceKey>),
    /// What was found inside of containers.
    Surveyed(Vec<Surveyed>),
    /// An [`AttachJob::Look`] is done, in the namespace with this number.
    LooksDone(u32),
}

/// How attaching to an interface went.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) generation: Generation,
    pub(crate) result: Result<Attachment, AttachError>,
}

/// How the attachment that was in this place stands.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) generation: Generation,
    pub(crate) place: Place,
    pub(crate) standing: Standing,
}

/// Attaches in the calling thread's namespace, whose number is `netns`, until the job channel is closed and every job
/// but looking is done.
pub(crate) fn work(
    netns: u32,
    attacher: Attacher,
    jobs: &mpsc::Receiver<AttachJob>,
    reports: tokio_mpsc::Sender<Report>,
    pins: Option<Arc<Pins>>,
) {
    let worker = Worker {
        attacher,
        reports,
        pins,
        births: VecDeque::new(),
        ends: VecDeque::new(),
        looks: VecDeque::new(),
        netns,
    };
    worker.run(jobs);
}

/// The thread's own: what it has to do, most urgent first.
struct Worker {
    attacher: Attacher,
    reports: tokio_mpsc::Sender<Report>,
    pins: Option<Arc<Pins>>,
    /// A packet that comes before its program is lost to the count, a program too many is not.
    births: VecDeque<Birth>,
    ends: VecDeque<Attachment>,
    /// None marks the end of a job.
    looks: VecDeque<Option<Look>>,
    /// dtm's number for the namespace this thread is in.
    netns: u32,
}

/// An interface to attach to, and what is left of an earlier attachment.
struct Birth {
    generation: Generation,
    bulk: bool,
    rest: Option<Rest>,
}

/// What is there of an attachment.
enum Rest {
    /// Somebody took a part of it off.
    Broken(Attachment),
    /// An earlier dtm's.
    Outdated(Attachment),
}

impl Worker {
    fn run(mut self, jobs: &mpsc::Receiver<AttachJob>) {
        loop {
            if self.births.is_empty() && self.ends.is_empty() && self.looks.is_empty() {
                match jobs.recv() {
                    Ok(job) => self.sort(job),
                    Err(mpsc::RecvError) => return,
                }
            }
            loop {
                match jobs.try_recv() {
                    Ok(job) => self.sort(job),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => {
                        self.looks.clear();
                        break;
                    }
                }
            }
            if let Some(birth) = self.births.pop_front() {
                self.attach(birth);
            } else if let Some(attachment) = self.ends.pop_front() {
                if let Err(error) = self.attacher.detach(attachment) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot take a program off");
                }
            } else if let Some(look) = self.looks.pop_front() {
                let report = look.map_or(Some(Report::LooksDone(self.netns)), |look| self.look(look));
                // A tracker that is gone does not want to know.
                report.map(|report| self.reports.blocking_send(report).ok());
            }
        }
    }

    fn sort(&mut self, job: AttachJob) {
        match job {
            AttachJob::Attach { generation, bulk } => self.births.push_back(Birth {
                generation,
                bulk,
                rest: None,
            }),
            AttachJob::Mend { generation, rest } => self.births.push_back(Birth {
                generation,
                bulk: false,
                rest: Some(Rest::Broken(rest)),
            }),
            AttachJob::Renew {
                generation,
                attachment,
            } => self.births.push_back(Birth {
                generation,
                bulk: false,
                rest: Some(Rest::Outdated(attachment)),
            }),
            AttachJob::Detach(attachment) => self.ends.push_back(attachment),
            AttachJob::Look(looks) => self.looks.extend(looks.into_iter().map(Some).chain([None])),
        }
    }

    fn attach(&mut self, birth: Birth) {
        let Birth {
            generation,
            bulk,
            rest,
        } = birth;
        let ifindex = generation.key.ifindex;
        let result = match rest {
            Some(Rest::Broken(rest)) => self.attacher.mend(ifindex, rest),
            Some(Rest::Outdated(attachment)) => self.attacher.renew(ifindex, attachment),
            None => self.attacher.attach(ifindex, bulk || !self.births.is_empty()),
        };
        let result = result.map(|mut attachment| {
            generation.pin(&mut attachment, self.pins.as_ref());
            attachment
        });
        let report = Report::Attached(Attached { generation, result });
        if let Err(unsent) = self.reports.blocking_send(report)
            && let Report::Attached(attached) = unsent.0
        {
            // The tracker is gone: what was just attached goes too.
            self.ends.extend(attached.result.ok());
        }
    }

    fn look(&mut self, look: Look) -> Option<Report> {
        let Look {
            generation,
            place,
            thorough,
            known,
        } = look;
        match self.attacher.look(generation.key.ifindex, place, thorough) {
            Ok(standing) => standing.filter(|standing| *standing != known).map(|standing| {
                Report::Looked(Looked {
                    generation,
                    place,
                    standing,
                })
            }),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    ifindex = generation.key.ifindex,
                    error,
                    "cannot look at what is attached"
                );
                None
            }
        }
    }
}
