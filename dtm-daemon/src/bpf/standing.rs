//! How what is attached stands among other tools' programs: first, behind one of them, or taken off.

use std::sync::Arc;

use super::{
    Attacher, ClsactFilter,
    clsact::Rank,
    sys::{TcxProgram, tcx_programs},
};
use crate::net::{NetlinkError, get};

/// Where an [`Attachment`](super::Attachment) is, to look at it without holding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The kernel's numbers of its links.
    Tcx {
        /// What the container sends.
        transmit: u32,
        /// What it is offered.
        receive: u32,
    },
    /// Its filters.
    Clsact {
        /// What the container sends.
        transmit: ClsactFilter,
        /// What it is offered.
        receive: ClsactFilter,
    },
}

/// How both programs of an interface stand among those of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody's program runs before them.
    First,
    /// This one does, and what it ends is not counted.
    Preceded(Arc<str>),
    /// One of them, or both, is not there any more.
    Missing,
}

impl Attacher {
    /// Looks at how an attachment stands; none where the interface is gone.
    ///
    /// Nobody tells of TCX programs that come and go, but somebody tells of filters: without `thorough` those are only
    /// looked at where a TCX program makes it worth while.
    pub fn look(
        &mut self,
        ifindex: u32,
        place: Place,
        thorough: bool,
    ) -> Result<Option<Standing>, NetlinkError> {
        self.debug_assert_at_home();
        let standing = match place {
            Place::Tcx { transmit, receive } => self.look_at_links(ifindex, [transmit, receive]),
            Place::Clsact { transmit, receive } => {
                match self.foreign_tcx(ifindex) {
                    Ok(None) if !thorough => return Ok(Some(Standing::First)),
                    // Missing ones matter more than who comes first.
                    Ok(foreign) => {
                        self.look_at_filters([transmit, receive])
                            .map(|standing| match (standing, foreign) {
                                (Standing::First, Some(foreign)) => Standing::Preceded(foreign),
                                (standing, _) => standing,
                            })
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match standing {
            Ok(Standing::Missing) => match get(&mut self.requests, ifindex) {
                // It went with its interface: nobody took it off.
                Err(error) if error.is(libc::ENODEV) => Ok(None),
                Err(error) => Err(error),
                Ok(_) => Ok(Some(Standing::Missing)),
            },
            Err(error) if error.is(libc::ENODEV) => Ok(None),
            result => result.map(Some),
        }
    }

    fn look_at_links(&self, ifindex: u32, links: [u32; 2]) -> Result<Standing, NetlinkError> {
        let mut standing = Standing::First;
        for (classifier, link) in self.classifiers.iter().zip(links) {
            let programs = tcx_programs(ifindex, classifier.hook).map_err(NetlinkError::Refused)?;
            match programs.iter().position(|program| program.link == link) {
                None => return Ok(Standing::Missing),
                Some(0) => {}
                Some(_) => standing = Standing::Preceded(describe(programs[0])),
            }
        }
        Ok(standing)
    }

    fn look_at_filters(&mut self, filters: [ClsactFilter; 2]) -> Result<Standing, NetlinkError> {
        let mut standing = Standing::First;
        for filter in filters {
            match filter.rank(&mut self.requests)? {
                Rank::First => {}
                Rank::After(other) => standing = Standing::Preceded(Arc::from(other)),
                Rank::Missing => return Ok(Standing::Missing),
            }
        }
        Ok(standing)
    }

    /// A program at one of the interface's TCX hooks, where dtm has none: all of these run before every filter.
    pub(super) fn foreign_tcx(&self, ifindex: u32) -> Result<Option<Arc<str>>, NetlinkError> {
        if !self.has_tcx {
            return Ok(None);
        }
        for classifier in &self.classifiers {
            let programs = tcx_programs(ifindex, classifier.hook).map_err(NetlinkError::Refused)?;
            if let Some(program) = programs.first() {
                return Ok(Some(describe(*program)));
            }
        }
        Ok(None)
    }
}

/// What an operator can look for with `bpftool prog`.
fn describe(program: TcxProgram) -> Arc<str> {
    Arc::from(format!("the TCX program {}", program.program))
}
