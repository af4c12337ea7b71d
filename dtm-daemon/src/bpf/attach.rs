//! Attaching the classifiers to an interface, both directions or none.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use dtm_common::traffic::Direction;

use super::{ClsactFilter, TcxLink, tcx_is_supported};
use crate::{
    config::AttachMode,
    net::{NetlinkError, Requests},
};

/// How an interface's programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Links before every other TCX program (kernel 6.6 and later). Wait for an RCU grace period each.
    Tcx,
    /// Direct-action filters on a clsact qdisc.
    Clsact,
}

impl Mode {
    /// The `mode` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Why an interface could not be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The interface went away first; nothing to worry about.
    #[error("the interface is gone")]
    Gone,
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
            Self::Clsact { .. } => "clsact",
        }
    }

    /// Every `reason`, for series that start at 0.
    pub const REASONS: [&str; 4] = ["gone", "tcx", "clsact", "no_slot"];
}

/// The programs on one interface. Dropping it detaches TCX links; filters are taken off by [`Attacher::detach`].
#[derive(Debug)]
pub enum Attachment {
    /// Links, which go when this goes.
    Tcx {
        /// What the container sends.
        transmit: TcxLink,
        /// What it is offered.
        receive: TcxLink,
    },
    /// Filters, which go with the interface, or when they are taken off.
    Clsact {
        /// What the container sends.
        transmit: ClsactFilter,
        /// What it is offered.
        receive: ClsactFilter,
    },
}

impl Attachment {
    /// Whether both programs are still there: anybody with the right to may have taken them off.
    pub fn is_attached(&self, requests: &mut Requests) -> Result<bool, NetlinkError> {
        Ok(match self {
            Self::Tcx { transmit, receive } => transmit.is_attached()? && receive.is_attached()?,
            Self::Clsact { transmit, receive } => {
                transmit.is_attached(requests)? && receive.is_attached(requests)?
            }
        })
    }

    /// How it is attached.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Tcx { .. } => Mode::Tcx,
            Self::Clsact { .. } => Mode::Clsact,
        }
    }
}

/// Attaches to interfaces of the network namespace it was made in.
pub struct Attacher {
    transmit: OwnedFd,
    receive: OwnedFd,
    requests: Requests,
    mode: AttachMode,
    has_tcx: bool,
}

impl Attacher {
    /// Prepares to attach the two programs as `mode` asks.
    pub fn new(transmit: OwnedFd, receive: OwnedFd, mode: AttachMode) -> Result<Self, NetlinkError> {
        Ok(Self {
            transmit,
            receive,
            requests: Requests::open()?,
            mode,
            has_tcx: tcx_is_supported(),
        })
    }

    /// Attaches both programs. `in_a_hurry`: others wait behind this one, or there are many to come, so that an
    /// automatic choice should not wait for the RCU grace periods of TCX (24 ms, others of the host held up).
    pub fn attach(&mut self, ifindex: u32, in_a_hurry: bool) -> Result<Attachment, AttachError> {
        match self.mode {
            AttachMode::Tcx => self.attach_tcx(ifindex),
            AttachMode::Clsact => self.attach_clsact(ifindex),
            AttachMode::Auto if self.has_tcx && !in_a_hurry => match self.attach_tcx(ifindex) {
                Err(AttachError::Tcx { program, source }) => {
                    let error = &source as &dyn std::error::Error;
                    tracing::warn!(ifindex, program, error, "TCX was refused, falling back to clsact");
                    self.attach_clsact(ifindex)
                }
                result => result,
            },
            AttachMode::Auto => match self.attach_clsact(ifindex) {
                // An `ingress` qdisc in the place of clsact has no egress side.
                Err(AttachError::Clsact { .. }) if self.has_tcx => self.attach_tcx(ifindex),
                result => result,
            },
        }
    }

    /// Takes both programs off again.
    pub fn detach(&mut self, attachment: Attachment) -> Result<(), NetlinkError> {
        match attachment {
            Attachment::Tcx { transmit, receive } => {
                drop((transmit, receive));
                Ok(())
            }
            Attachment::Clsact { transmit, receive } => {
                let first = transmit.detach(&mut self.requests);
                receive.detach(&mut self.requests).and(first)
            }
        }
    }

    fn attach_tcx(&self, ifindex: u32) -> Result<Attachment, AttachError> {
        let create = |program: &OwnedFd, direction, name| {
            TcxLink::create(program.as_fd(), ifindex, direction).map_err(|source| {
                match source.raw_os_error() {
                    Some(libc::ENODEV | libc::ENXIO) => AttachError::Gone,
                    _ => AttachError::Tcx {
                        program: name,
                        source,
                    },
                }
            })
        };
        // What the container sends comes first: its first frame is the one there is a race with.
        let transmit = create(&self.transmit, Direction::Transmit, "dtm_transmit")?;
        let receive = create(&self.receive, Direction::Receive, "dtm_receive")?;
        Ok(Attachment::Tcx { transmit, receive })
    }

    fn attach_clsact(&mut self, ifindex: u32) -> Result<Attachment, AttachError> {
        let Self {
            transmit,
            receive,
            requests,
            ..
        } = self;
        ClsactFilter::ensure_qdisc(requests, ifindex).map_err(|source| refused("dtm_transmit", source))?;
        let mut filter = |program: BorrowedFd<'_>, direction, name| {
            ClsactFilter::attach(requests, ifindex, direction, program, name)
                .map_err(|source| refused(name, source))
        };
        let transmit = filter(transmit.as_fd(), Direction::Transmit, "dtm_transmit")?;
        match filter(receive.as_fd(), Direction::Receive, "dtm_receive") {
            Ok(receive) => Ok(Attachment::Clsact { transmit, receive }),
            Err(error) => {
                // Both or none.
                if let Err(error) = transmit.detach(requests) {
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
