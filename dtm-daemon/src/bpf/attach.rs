//! Attaching the classifiers to an interface, both directions or none.
//!
//! An interface is one of the network namespace that the calling thread is in: bpf(2) looks it up there, netlink in
//! that of the socket. For another namespace a thread enters it, makes an [`Attacher`] of its own and keeps it.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use dtm_common::traffic::Direction;

use super::{
    Attachment, ClsactFilter, Side, TcxLink,
    clsact::{FIRST, Program, Rank},
    side::Hook,
    sys::{object_id, tcx_programs},
    tcx_is_supported,
};
use crate::{
    config::AttachMode,
    net::{NetlinkError, Requests, own_netns_inode},
};

/// Why an interface could not be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The interface went away first; nothing to worry about.
    #[error("the interface is gone")]
    Gone,
    /// Somebody else's program would run before a filter, which is not what was asked for.
    #[error("another program comes first")]
    Preceded,
    /// The programs could not be loaded once more for it.
    #[error("load the programs for it")]
    Program(#[source] anyhow::Error),
    /// A program of somebody else's is at the group, or at one above it, and admits no other beside it.
    #[error("a group above has a program that admits no other")]
    Exclusive,
    /// The kernel refused a link to a control group.
    #[error("create a link to the control group")]
    Cgroup(#[source] io::Error),
    /// The kernel refused a TCX link.
    #[error("create a TCX link for {program}")]
    Tcx {
        /// Which program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the qdisc or the filter.
    #[error("put {program} on the clsact qdisc")]
    Clsact {
        /// Which program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
}

impl AttachError {
    /// The `reason` label of `dtm_attach_errors_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Tcx { .. } => "tcx",
            Self::Clsact { .. } | Self::Preceded => "clsact",
            Self::Program(_) => "program",
            Self::Exclusive | Self::Cgroup(_) => "cgroup",
        }
    }

    /// The `reason` label of `dtm_container_uncovered`, for a container whose control group could not be attached to.
    pub fn uncovered(&self) -> &'static str {
        match self {
            Self::Exclusive => "cgroup_program_exclusive",
            _ => "cgroup_refused",
        }
    }

    /// Every `reason`, for series that start at 0.
    pub const REASONS: [&str; 6] = ["gone", "tcx", "clsact", "cgroup", "program", "no_slot"];
}

/// A loaded classifier.
pub(super) struct Classifier {
    fd: OwnedFd,
    id: u32,
    name: &'static str,
    direction: Direction,
    pub(super) hook: Hook,
}

impl Classifier {
    fn new(fd: OwnedFd, name: &'static str, direction: Direction) -> io::Result<Self> {
        let id = object_id(fd.as_fd())?;
        Ok(Self {
            fd,
            id,
            name,
            direction,
            hook: Side::default().hook(direction),
        })
    }

    fn create_link(&self, ifindex: u32) -> Result<TcxLink, AttachError> {
        TcxLink::create(self.fd.as_fd(), ifindex, self.hook).map_err(|source| match source.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => AttachError::Gone,
            _ => AttachError::Tcx {
                program: self.name,
                source,
            },
        })
    }

    fn add_filter(
        &self,
        requests: &mut Requests,
        ifindex: u32,
        priority: u32,
    ) -> Result<ClsactFilter, AttachError> {
        let program = Program {
            fd: self.fd.as_fd(),
            id: self.id,
            name: self.name,
        };
        ClsactFilter::attach(requests, ifindex, self.hook, priority, program)
            .map_err(|source| refused(self.name, source))
    }
}

/// Attaches to interfaces of the network namespace it was made in, by a thread that is in it.
///
/// Only [`detach`](Self::detach), and dropping an [`Attachment`], can be done from anywhere.
pub struct Attacher {
    /// First what the container sends: its first frame is the one there is a race with.
    pub(super) classifiers: [Classifier; 2],
    pub(super) requests: Requests,
    mode: AttachMode,
    pub(super) has_tcx: bool,
    /// The inode of its namespace.
    namespace: u32,
}

impl Attacher {
    /// Prepares to attach the two programs as `mode` asks, to the host's ends of containers' interfaces in the calling
    /// thread's network namespace.
    ///
    /// The programs must count for that namespace: [`Kernel::classifiers`](super::Kernel::classifiers) are for dtm's
    /// own, [`Template::classifiers`](super::Template::classifiers) make others.
    pub fn new(transmit: OwnedFd, receive: OwnedFd, mode: AttachMode) -> Result<Self, NetlinkError> {
        Ok(Self {
            classifiers: [
                Classifier::new(transmit, "dtm_transmit", Direction::Transmit)?,
                Classifier::new(receive, "dtm_receive", Direction::Receive)?,
            ],
            requests: Requests::open()?,
            mode,
            has_tcx: tcx_is_supported(),
            namespace: own_netns_inode()?,
        })
    }

    /// The same, at that side of interfaces.
    #[must_use]
    pub fn at(mut self, side: Side) -> Self {
        for classifier in &mut self.classifiers {
            classifier.hook = side.hook(classifier.direction);
        }
        self
    }

    /// The address of the socket that its orders come from, see [`crate::net::LinkSubscription::open`].
    pub fn port(&self) -> Result<u32, NetlinkError> {
        self.requests.port()
    }

    /// Attaches both programs. `in_a_hurry`: others wait behind this one, or there are many to come, so that an
    /// automatic choice should not wait for the RCU grace periods of TCX (24 ms, others of the host held up) unless
    /// somebody else's program would come first on clsact: one that ends a packet's way would hide it.
    pub fn attach(&mut self, ifindex: u32, in_a_hurry: bool) -> Result<Attachment, AttachError> {
        self.debug_assert_at_home();
        match self.mode {
            AttachMode::Tcx => self.attach_tcx(ifindex, None),
            AttachMode::Clsact => self.attach_clsact(ifindex, None, false),
            AttachMode::Auto if self.has_tcx && !in_a_hurry => match self.attach_tcx(ifindex, None) {
                Err(AttachError::Tcx { program, source }) => {
                    let error = &source as &dyn std::error::Error;
                    tracing::warn!(ifindex, program, error, "TCX was refused, falling back to clsact");
                    self.attach_clsact(ifindex, None, false)
                }
                result => result,
            },
            AttachMode::Auto => self.attach_clsact_or_tcx(ifindex, None),
        }
    }

    /// Puts back what is missing of an attachment, in the first place that can be had. What is still there goes on
    /// counting where it is.
    pub fn mend(&mut self, ifindex: u32, rest: Attachment) -> Result<Attachment, AttachError> {
        self.debug_assert_at_home();
        match rest {
            Attachment::Tcx { transmit, receive } => self.attach_tcx(ifindex, Some([transmit, receive])),
            Attachment::Cgroup { .. } => Err(AttachError::Gone),
            Attachment::Clsact { transmit, receive } => {
                let rest = Some([transmit, receive]);
                match self.mode {
                    AttachMode::Auto => self.attach_clsact_or_tcx(ifindex, rest),
                    AttachMode::Tcx | AttachMode::Clsact => self.attach_clsact(ifindex, rest, false),
                }
            }
        }
    }

    /// Has an attachment of an earlier dtm run these programs, where it is. Not a packet passes neither or both; what is
    /// missing of it is put back.
    pub fn renew(&mut self, ifindex: u32, attachment: Attachment) -> Result<Attachment, AttachError> {
        self.debug_assert_at_home();
        let [transmit, receive] = &self.classifiers;
        match attachment {
            links @ (Attachment::Tcx { .. } | Attachment::Cgroup { .. }) => {
                match links.update(transmit.fd.as_fd(), receive.fd.as_fd()) {
                    Ok(()) => Ok(links),
                    Err(_nothing_is_held) => self.mend(ifindex, links),
                }
            }
            Attachment::Clsact {
                transmit: transmit_filter,
                receive: receive_filter,
            } => Ok(Attachment::Clsact {
                transmit: transmit.add_filter(&mut self.requests, ifindex, transmit_filter.priority())?,
                receive: receive.add_filter(&mut self.requests, ifindex, receive_filter.priority())?,
            }),
        }
    }

    /// Takes both programs off again.
    pub fn detach(&mut self, attachment: Attachment) -> Result<(), NetlinkError> {
        attachment.detach(&mut self.requests)
    }

    /// In another namespace the index would be another interface's, and bpf(2) would not know.
    pub(super) fn debug_assert_at_home(&self) {
        debug_assert!(
            own_netns_inode().is_ok_and(|inode| inode == self.namespace),
            "the thread is in another network namespace than its attacher"
        );
    }

    /// Links both ways; those of `rest` that are still there stay.
    fn attach_tcx(&mut self, ifindex: u32, rest: Option<[TcxLink; 2]>) -> Result<Attachment, AttachError> {
        let [transmit, receive] = rest.map_or([None, None], |links| links.map(Some));
        // Before the links come: what both counted would be counted twice.
        if let Err(error) = ClsactFilter::remove_all(&mut self.requests, ifindex) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(ifindex, error, "cannot look for an earlier dtm's filters");
        }
        let is_there = |link: &TcxLink, hook| {
            let programs = tcx_programs(ifindex, hook).unwrap_or_default();
            programs.iter().any(|program| program.link == link.id())
        };
        let link = |classifier: &Classifier, rest: Option<TcxLink>| {
            rest.filter(|link| is_there(link, classifier.hook))
                .map_or_else(|| classifier.create_link(ifindex), Ok)
        };
        let [first, second] = &self.classifiers;
        let transmit = link(first, transmit)?;
        let receive = link(second, receive)?;
        Ok(Attachment::Tcx { transmit, receive })
    }

    /// Filters, unless others would run before them or have their place and there is TCX.
    fn attach_clsact_or_tcx(
        &mut self,
        ifindex: u32,
        rest: Option<[ClsactFilter; 2]>,
    ) -> Result<Attachment, AttachError> {
        match self.attach_clsact(ifindex, rest, self.has_tcx) {
            Err(AttachError::Clsact { .. } | AttachError::Preceded) if self.has_tcx => {
                self.attach_tcx(ifindex, None)
            }
            result => result,
        }
    }

    /// Filters both ways; those of `rest` that are still there stay. `first_or_none`: not where others would run
    /// before them.
    fn attach_clsact(
        &mut self,
        ifindex: u32,
        rest: Option<[ClsactFilter; 2]>,
        first_or_none: bool,
    ) -> Result<Attachment, AttachError> {
        if first_or_none && matches!(self.foreign_tcx(ifindex), Ok(Some(_))) {
            return Err(AttachError::Preceded);
        }
        let Self {
            classifiers: [transmit, receive],
            requests,
            ..
        } = self;
        let existed =
            ClsactFilter::ensure_qdisc(requests, ifindex).map_err(|source| refused(transmit.name, source))?;
        let [transmit_rest, receive_rest] = rest.map_or([None, None], |filters| filters.map(Some));
        let mut plan = |classifier: &Classifier, rest: Option<ClsactFilter>| {
            if !existed {
                return Ok((FIRST, None));
            }
            let kept = match rest.map(|filter| (filter, filter.rank(requests))) {
                Some((filter, Ok(rank))) if rank != Rank::Missing => Some(filter),
                _ => None,
            };
            match kept {
                Some(filter) => Ok((filter.priority(), Some(filter))),
                None => ClsactFilter::make_way(requests, ifindex, classifier.hook)
                    .map(|priority| (priority, None))
                    .map_err(|source| refused(classifier.name, source)),
            }
        };
        let plans = [plan(transmit, transmit_rest)?, plan(receive, receive_rest)?];
        if first_or_none && plans.iter().any(|(priority, _kept)| *priority != FIRST) {
            return Err(AttachError::Preceded);
        }
        let mut filter = |classifier: &Classifier, (priority, kept)| match kept {
            Some(filter) => Ok(filter),
            None => classifier.add_filter(requests, ifindex, priority),
        };
        let transmit_filter = filter(transmit, plans[0])?;
        match filter(receive, plans[1]) {
            Ok(receive) => Ok(Attachment::Clsact {
                transmit: transmit_filter,
                receive,
            }),
            Err(error) => {
                // Both or none.
                if let Err(error) = transmit_filter.detach(requests) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        ifindex,
                        error,
                        "cannot take off the one program that was attached"
                    );
                }
                Err(error)
            }
        }
    }
}

fn refused(program: &'static str, source: NetlinkError) -> AttachError {
    if source.is(libc::ENODEV) {
        AttachError::Gone
    } else {
        AttachError::Clsact { program, source }
    }
}
