//! The programs at an interface or a control group, as long as they are to be there.

use std::{io, os::fd::BorrowedFd, path::PathBuf};

use dtm_common::traffic::Direction;

use super::{CgroupLink, ClsactFilter, LinkName, Pins, TcxLink, held::Held, standing::Place};
use crate::net::{NetlinkError, Requests};

/// How an interface's programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Links before every other TCX program (kernel 6.6 and later). Wait for an RCU grace period each.
    Tcx,
    /// Direct-action filters on a clsact qdisc.
    Clsact,
    /// Links to a control group, whose sockets have no interface to themselves.
    Cgroup,
}

impl Mode {
    /// Those that there are at an interface.
    pub const OF_INTERFACES: [Self; 2] = [Self::Tcx, Self::Clsact];

    /// The `mode` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Cgroup => "cgroup",
        }
    }
}

/// The programs on one interface. Dropping it detaches TCX links; filters are taken off by [`Attacher::detach`](super::Attacher::detach).
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
    /// Links, which go when this goes.
    Cgroup {
        /// What its sockets send.
        transmit: CgroupLink,
        /// What they receive.
        receive: CgroupLink,
    },
}

impl Attachment {
    /// How it is attached.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Tcx { .. } => Mode::Tcx,
            Self::Clsact { .. } => Mode::Clsact,
            Self::Cgroup { .. } => Mode::Cgroup,
        }
    }

    /// Where it is at an interface.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Tcx { transmit, receive } => Some(Place::Tcx {
                transmit: transmit.id(),
                receive: receive.id(),
            }),
            Self::Clsact { transmit, receive } => Some(Place::Clsact {
                transmit: *transmit,
                receive: *receive,
            }),
            Self::Cgroup { .. } => None,
        }
    }

    /// Takes both programs off again; `requests` must have been opened in the interface's network namespace.
    pub fn detach(self, requests: &mut Requests) -> Result<(), NetlinkError> {
        match self {
            links @ (Self::Tcx { .. } | Self::Cgroup { .. }) => {
                drop(links);
                Ok(())
            }
            Self::Clsact { transmit, receive } => {
                let first = transmit.detach(requests);
                receive.detach(requests).and(first)
            }
        }
    }

    /// Goes on with links that an earlier process has left under these names: both, or what there is goes.
    ///
    /// # Errors
    ///
    /// Where one is gone meanwhile.
    pub fn open(mode: Mode, transmit: PathBuf, receive: PathBuf) -> io::Result<Self> {
        match mode {
            Mode::Cgroup => Ok(Self::Cgroup {
                transmit: CgroupLink::open(transmit)?,
                receive: CgroupLink::open(receive)?,
            }),
            Mode::Tcx => Ok(Self::Tcx {
                transmit: TcxLink::open(transmit)?,
                receive: TcxLink::open(receive)?,
            }),
            Mode::Clsact => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Gives its links names by which whoever comes next finds them; they go on whatever becomes of this process. Filters
    /// do so by themselves.
    pub fn pin(&mut self, pins: &Pins, slot: u32, generation: u64) -> io::Result<()> {
        let pin = |link: &mut Held, direction| {
            let id = link.id();
            let name = LinkName {
                slot,
                generation,
                direction,
                id,
            };
            link.pin(pins.link(&name.to_string()))
        };
        if let Some([transmit, receive]) = self.links_mut() {
            pin(transmit, Direction::Transmit)?;
            pin(receive, Direction::Receive)?;
        }
        Ok(())
    }

    /// Has its links hold other programs. Not a packet passes neither or both.
    ///
    /// # Errors
    ///
    /// `ENOLINK` where one of them holds nothing any more, `Unsupported` of filters: [`Attacher::renew`](super::Attacher::renew) does it for them.
    pub fn update(
        &self,
        transmit_program: BorrowedFd<'_>,
        receive_program: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let [transmit, receive] = match self {
            Self::Tcx { transmit, receive } => [&transmit.0, &receive.0],
            Self::Cgroup { transmit, receive } => [&transmit.0, &receive.0],
            Self::Clsact { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        transmit.update(transmit_program)?;
        receive.update(receive_program)
    }

    /// Leaves it attached for whoever comes next. Links that have no name go.
    pub fn keep(mut self) {
        for link in self.links_mut().into_iter().flatten() {
            link.keep();
        }
    }

    /// Takes the names of its links away: they go with this process.
    pub fn unpin(&mut self) {
        for link in self.links_mut().into_iter().flatten() {
            link.unpin();
        }
    }

    /// Its links, where it is by links: what is sent first.
    fn links_mut(&mut self) -> Option<[&mut Held; 2]> {
        match self {
            Self::Tcx { transmit, receive } => Some([&mut transmit.0, &mut receive.0]),
            Self::Cgroup { transmit, receive } => Some([&mut transmit.0, &mut receive.0]),
            Self::Clsact { .. } => None,
        }
    }

    /// Whether its links still hold their programs at their group; not where it is at an interface.
    pub fn is_at_its_group(&self) -> bool {
        match self {
            Self::Tcx { .. } | Self::Clsact { .. } => false,
            Self::Cgroup { transmit, receive } => [transmit, receive]
                .iter()
                .all(|link| link.is_attached().unwrap_or(true)),
        }
    }
}
