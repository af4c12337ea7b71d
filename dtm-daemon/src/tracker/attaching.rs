//! The thread that attaches: a TCX attach waits for RCU grace periods, which nobody else should.

use std::{collections::VecDeque, io, sync::mpsc, thread};

use tokio::sync::mpsc as tokio_mpsc;

use crate::bpf::{AttachError, Attacher, Attachment};

/// An interface at one time of its life: an index may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Generation {
    /// The kernel's index.
    pub(crate) ifindex: u32,
    /// dtm's own number for this life of it, never used again.
    pub(crate) number: u64,
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
    /// Take an attachment off.
    Detach(Attachment),
}

/// How an [`AttachJob::Attach`] or an [`AttachJob::Mend`] went.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) generation: Generation,
    pub(crate) result: Result<Attachment, AttachError>,
}

/// Starts the thread. It ends when the job channel is closed and every job is done.
pub(crate) fn spawn(
    attacher: Attacher,
    jobs: mpsc::Receiver<AttachJob>,
    results: tokio_mpsc::Sender<Attached>,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name("dtm-attach".to_owned())
        .spawn(move || run(attacher, &jobs, &results))
}

fn run(mut attacher: Attacher, jobs: &mpsc::Receiver<AttachJob>, results: &tokio_mpsc::Sender<Attached>) {
    // Births first: a packet that comes before its program is lost to the count, a program too many is not.
    let (mut births, mut ends) = (VecDeque::new(), VecDeque::new());
    loop {
        if births.is_empty() && ends.is_empty() {
            match jobs.recv() {
                Ok(job) => sort(job, &mut births, &mut ends),
                Err(mpsc::RecvError) => return,
            }
        }
        while let Ok(job) = jobs.try_recv() {
            sort(job, &mut births, &mut ends);
        }
        if let Some(Birth {
            generation,
            bulk,
            rest,
        }) = births.pop_front()
        {
            // A link that is left would count beside the new one; a filter that is left is replaced in its place.
            drop(rest);
            let result = attacher.attach(generation.ifindex, bulk || !births.is_empty());
            if let Err(unsent) = results.blocking_send(Attached { generation, result }) {
                // The tracker is gone: what was just attached goes too.
                ends.extend(unsent.0.result.ok());
            }
        } else if let Some(attachment) = ends.pop_front()
            && let Err(error) = attacher.detach(attachment)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot take a program off");
        }
    }
}

/// An interface to attach to, and what is left of an earlier attachment.
struct Birth {
    generation: Generation,
    bulk: bool,
    rest: Option<Attachment>,
}

fn sort(job: AttachJob, births: &mut VecDeque<Birth>, ends: &mut VecDeque<Attachment>) {
    match job {
        AttachJob::Attach { generation, bulk } => births.push_back(Birth {
            generation,
            bulk,
            rest: None,
        }),
        AttachJob::Mend { generation, rest } => births.push_back(Birth {
            generation,
            bulk: false,
            rest: Some(rest),
        }),
        AttachJob::Detach(attachment) => ends.push_back(attachment),
    }
}
