//! The network namespaces whose interfaces are watched: dtm's own, and those that the engine hides overlay networks in.
//!
//! Each has a thread of its own that has entered it: attaching, and looking at what is attached, is only possible from
//! within. Everything else goes over sockets that were opened there. A socket or a thread keeps its namespace from going,
//! so a namespace that the engine has given up is left at once.

use std::{
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, mpsc as std_mpsc},
    thread,
};

use anyhow::Context as _;
use rustix::thread::gettid;
use tokio::task::AbortHandle;

use super::{
    Tracker,
    attaching::{self, AttachJob},
    devices::Means,
    hidden::HiddenEvent,
    resolving::{ResolveOrder, View},
};
use crate::{
    bpf::Attacher,
    config::AttachMode,
    net::{Link, LinkSubscription, LinkWatch, Requests, enter, namespace_id, netns_cookie},
};

/// A namespace whose interfaces are watched.
pub(super) struct Watched {
    /// Answers the tracker's questions about interfaces there.
    pub(super) requests: Requests,
    /// Of one that hides an overlay network: the beginning of the network's id.
    pub(super) network: Option<Arc<str>>,
    /// The inode of such a one.
    pub(super) inode: Option<u64>,
    /// The kernel's number for it, which no other ever has, where the kernel gives any.
    pub(super) cookie: Option<u64>,
    /// Of the thread that is in it.
    pub(super) thread: i32,
    attach_jobs: std_mpsc::Sender<AttachJob>,
    attach_thread: thread::JoinHandle<()>,
    /// Reads its events, where it is not dtm's own.
    reader: Option<AbortHandle>,
}

impl Watched {
    /// Has its thread do something.
    pub(super) fn order(&self, job: AttachJob) {
        // The thread lives as long as this sender does.
        drop(self.attach_jobs.send(job));
    }

    /// Waits until its thread has done everything but looking.
    pub(super) fn finish(self) {
        drop(self.attach_jobs);
        if let Some(reader) = self.reader {
            reader.abort();
        }
        if self.attach_thread.join().is_err() {
            tracing::error!("a thread that attaches panicked; some programs may be left attached");
        }
    }
}

/// A namespace that is about to be watched.
pub(super) struct Opened {
    /// dtm's number for it.
    pub(super) number: u32,
    pub(super) watched: Watched,
    /// For those who identify interfaces.
    pub(super) view: View,
    /// Its events, from now on.
    pub(super) subscription: LinkSubscription,
}

/// Starts the thread of a namespace, and opens what it takes to watch it. Without `netns` it is the one that the calling
/// thread is in. The programs are `dtm_transmit` and `dtm_receive` as they are loaded for it.
pub(super) fn open(
    number: u32,
    netns: Option<File>,
    programs: (OwnedFd, OwnedFd),
    means: Means,
) -> anyhow::Result<Opened> {
    let Means {
        attach_mode,
        report,
        pins,
        ..
    } = means;
    let (attach_jobs, jobs) = std_mpsc::channel();
    let (tell, told) = std_mpsc::sync_channel(1);
    let attach_thread = thread::Builder::new()
        .name("dtm-attach".to_owned())
        .spawn(move || {
            let opened = open_here(netns.as_ref(), programs, attach_mode);
            // From here on the thread is what keeps the namespace.
            drop(netns);
            match opened {
                Ok((attacher, sockets)) => {
                    drop(tell.send(Ok(sockets)));
                    attaching::work(number, attacher, &jobs, report, pins);
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })
        .context("start the thread that attaches")?;
    let (requests, view, subscription, cookie, thread) =
        told.recv().context("the thread that attaches has ended")??;
    Ok(Opened {
        number,
        watched: Watched {
            requests,
            network: None,
            inode: None,
            cookie,
            thread,
            attach_jobs,
            attach_thread,
            reader: None,
        },
        view,
        subscription,
    })
}

type Sockets = (Requests, View, LinkSubscription, Option<u64>, i32);

fn open_here(
    netns: Option<&File>,
    (transmit, receive): (OwnedFd, OwnedFd),
    attach_mode: AttachMode,
) -> anyhow::Result<(Attacher, Sockets)> {
    if let Some(netns) = netns {
        enter(netns.as_fd()).context("enter a network namespace")?;
    }
    let attacher =
        Attacher::new(transmit, receive, attach_mode).context("open a netlink socket to attach with")?;
    let subscription =
        LinkSubscription::open(attacher.port()?).context("subscribe to the kernel's link events")?;
    let requests = Requests::open().context("open a netlink socket to list interfaces with")?;
    let view = View::open().context("open the sockets to identify interfaces with")?;
    let thread = gettid().as_raw_nonzero().get();
    let sockets = (requests, view, subscription, netns_cookie().ok(), thread);
    Ok((attacher, sockets))
}

impl Tracker {
    /// Takes in that a namespace that hides a network has come or gone.
    pub(super) fn on_hidden(&mut self, event: HiddenEvent) -> anyhow::Result<()> {
        match event {
            HiddenEvent::Opened(opened) => self.watch_hidden(*opened),
            HiddenEvent::Closed(number) => {
                self.leave_hidden(number);
                Ok(())
            }
            HiddenEvent::Listed => {
                self.hidden_listed = true;
                for number in std::mem::take(&mut self.left_hidden).into_keys() {
                    self.leave_stale(number);
                }
                self.unrecorded.rest = true;
                self.note_readiness();
                Ok(())
            }
        }
    }

    fn watch_hidden(&mut self, opened: Opened) -> anyhow::Result<()> {
        let Opened {
            number,
            mut watched,
            view,
            subscription,
        } = opened;
        tracing::debug!(
            netns = number,
            network = watched.network.as_deref(),
            "watching a hidden network"
        );
        let mut links = match LinkWatch::new(subscription) {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(netns = number, %error, "cannot watch the namespace of an overlay network");
                return Ok(());
            }
        };
        let tell = self.tell_elsewhere.clone();
        let reader = tokio::spawn(async move {
            loop {
                let events = match links.next().await {
                    Ok(events) => events,
                    Err(error) => {
                        tracing::warn!(netns = number, %error, "cannot read a namespace's link events");
                        return;
                    }
                };
                if tell.send((number, events)).await.is_err() {
                    return;
                }
            }
        });
        watched.reader = Some(reader.abort_handle());
        self.order_resolve(ResolveOrder::Open(number, view));
        let cookie = watched.cookie;
        self.namespaces.insert(number, watched);
        self.unrecorded.rest = true;
        // Before anything in it is.
        self.record();
        // An inode can be another namespace's by now.
        if let Some(left) = self.left_hidden.remove(&number)
            && left.cookie != cookie
        {
            self.leave_stale(number);
        }
        // In bulk: what is there was there before dtm, and its first packets may be on their way.
        self.resynchronise(number, true)?;
        self.resume(number);
        Ok(())
    }

    fn leave_hidden(&mut self, number: u32) {
        let left = self
            .interfaces
            .keys()
            .chain(self.foreign.keys())
            .chain(&self.refused);
        let left: Vec<u32> = left
            .filter(|key| key.netns == number)
            .map(|key| key.ifindex)
            .collect();
        for ifindex in left {
            self.link_removed(number, ifindex, None);
        }
        self.peers_here.retain(|_peer, host_end| host_end.netns != number);
        self.looks.done(number);
        // Ends with the tracker, if not before.
        drop(self.resolve_jobs.send(ResolveOrder::Close(number)));
        self.unrecorded.rest = true;
        if let Some(namespace) = self.namespaces.remove(&number) {
            tracing::debug!(
                netns = number,
                network = namespace.network.as_deref(),
                "a hidden network is gone"
            );
            // Links are taken off by what holds them, and everything else goes with the namespace.
            thread::spawn(move || namespace.finish());
        }
    }

    /// Whether this namespace hides an overlay network.
    pub(super) fn is_hidden(&self, netns: u32) -> bool {
        let namespace = self.namespaces.get(&netns);
        namespace.is_some_and(|namespace| namespace.network.is_some())
    }

    /// Sees to it that a pair whose other end is still in dtm's own namespace looks the same from every other one: the
    /// other end has no namespace of its own yet.
    pub(super) fn see_from_elsewhere(&mut self, netns: u32, link: &mut Link) {
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return;
        };
        let own = namespace_id(&mut namespace.requests, self.own_netns.as_fd());
        if link.peer_nsid.is_some() && own.is_ok_and(|own| own == link.peer_nsid) {
            link.peer_nsid = None;
        }
    }
}
