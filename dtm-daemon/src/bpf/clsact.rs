//! TC filters on a `clsact` qdisc, in one netlink message each.
//!
//! The qdisc itself is never deleted, not even one dtm made: somebody may have put filters on it since.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};

use serde::{Deserialize, Serialize};

use super::{
    listing::{Listed, list},
    side::Hook,
};
use crate::net::{NetlinkError, Requests};

/// `TC_H_CLSACT` with the minors of its two filter lists, `include/uapi/linux/pkt_sched.h`.
const PARENT_INGRESS: u32 = 0xffff_fff2;
const PARENT_EGRESS: u32 = 0xffff_fff3;
const PARENT_CLSACT: u32 = 0xffff_fff1;
const HANDLE_CLSACT: u32 = 0xffff_0000;

/// The qdisc's name.
const QDISC_KIND: &str = "clsact";

/// "dtm": fixed, so that a filter left behind by a crash is recognised and replaced, not doubled.
pub(super) const FILTER_HANDLE: u32 = 0x0064_746d;

/// Filters run in order of priority; 1 is the first. A priority belongs to one kind of filter, so where another
/// kind has it the next one is tried.
const PRIORITIES: std::ops::RangeInclusive<u32> = FIRST..=8;

/// The priority that runs before all others.
pub(super) const FIRST: u32 = 1;

/// `ETH_P_ALL` in network byte order, as the lower half of `tcm_info` holds it.
pub(super) const PROTOCOL_ALL: u32 = 0x0003_u16.to_be() as u32;

/// `TCA_BPF_FLAG_ACT_DIRECT`: the program's return value is the verdict.
const DIRECT_ACTION: u32 = 1;

/// A filter of ours at one hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClsactFilter {
    ifindex: u32,
    hook: Hook,
    priority: u32,
    /// The kernel's number for the program.
    program: u32,
}

/// How a filter stands among those of its hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Nobody's filter runs before it.
    First,
    /// This one does.
    After(String),
    /// It is not there, or has another program.
    Missing,
}

impl ClsactFilter {
    /// Makes sure the interface has a clsact qdisc. Whether it had one before.
    ///
    /// # Errors
    ///
    /// `ENODEV` where the interface is gone, [`NetlinkError::Occupied`] where it has an `ingress` qdisc.
    pub fn ensure_qdisc(requests: &mut Requests, ifindex: u32) -> Result<bool, NetlinkError> {
        let mut message = TcMessage::with_index(index(ifindex));
        message.header.parent = TcHandle::from(PARENT_CLSACT);
        message.header.handle = TcHandle::from(HANDLE_CLSACT);
        message.attributes.push(TcAttribute::Kind(QDISC_KIND.to_owned()));
        let result = requests.acknowledged(
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match result {
            Err(error) if error.is(libc::EEXIST) => must_be_clsact(requests, ifindex).map(|()| true),
            result => result.map(|()| false),
        }
    }

    /// The first priority that others leave free at a hook of an interface, so that a filter put there runs before
    /// all it can; 1 is before everybody. Filters of ours that would be in its way, or beside it, are taken off: only an
    /// earlier dtm that did not end in order leaves such.
    pub(super) fn make_way(requests: &mut Requests, ifindex: u32, hook: Hook) -> Result<u32, NetlinkError> {
        let listed = list(requests, ifindex, hook)?;
        let is_taken = |priority: &u32| {
            listed
                .iter()
                .any(|filter| filter.priority == *priority && !filter.leaves_room())
        };
        let free = PRIORITIES.clone().find(|priority| !is_taken(priority));
        let place = free.unwrap_or(*PRIORITIES.end());
        let head = listed.iter().find(|filter| filter.priority == place);
        for filter in listed.iter().filter(|filter| filter.is_ours()) {
            // The one at the head of its place is replaced where it is, without a moment in which nobody counts.
            if head != Some(filter) {
                Self::delete(requests, ifindex, hook, filter.priority)?;
            }
        }
        Ok(place)
    }

    /// Takes off every filter of ours at both hooks of an interface, whoever made it, and says how many there were.
    pub(super) fn remove_all(requests: &mut Requests, ifindex: u32) -> Result<usize, NetlinkError> {
        let mut removed = 0;
        for hook in Hook::ALL {
            for filter in list(requests, ifindex, hook)?
                .iter()
                .filter(|filter| filter.is_ours())
            {
                tracing::debug!(
                    ifindex,
                    name = filter.name,
                    "an earlier dtm's filter is taken off"
                );
                Self::delete(requests, ifindex, hook, filter.priority)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Puts `program` at one hook of the interface at this priority, or the next that is free, replacing one of ours
    /// that is there already. Among filters of its own priority a new one is the first.
    ///
    /// # Errors
    ///
    /// `ENODEV` where the interface is gone.
    pub fn attach(
        requests: &mut Requests,
        ifindex: u32,
        hook: Hook,
        from: u32,
        program: Program<'_>,
    ) -> Result<Self, NetlinkError> {
        let Program { fd, id, name } = program;
        let options = vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd.as_raw_fd().cast_unsigned())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::from_bits_retain(
                DIRECT_ACTION,
            ))),
        ];
        let mut refused = None;
        for priority in from..=*PRIORITIES.end() {
            let filter = Self {
                ifindex,
                hook,
                priority,
                program: id,
            };
            let mut message = TcMessage::from_parts(filter.header(), Vec::new());
            message
                .attributes
                .push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
            message.attributes.push(TcAttribute::Options(options.clone()));
            let message = RouteNetlinkMessage::NewTrafficFilter(message);
            match requests.acknowledged(message, NLM_F_CREATE | NLM_F_REPLACE) {
                Ok(()) => return Ok(filter),
                // Another kind of filter, or another protocol, has this priority.
                Err(error) if error.is(libc::EINVAL) || error.is(libc::ENOENT) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or(NetlinkError::Unanswered))
    }

    /// Its priority; 1 runs first.
    pub(super) fn priority(self) -> u32 {
        self.priority
    }

    /// How the filter stands among those of others.
    pub(super) fn rank(self, requests: &mut Requests) -> Result<Rank, NetlinkError> {
        let listed = list(requests, self.ifindex, self.hook)?;
        let is_this = |filter: &Listed| {
            filter.priority == self.priority
                && filter.handle == FILTER_HANDLE
                && filter.program == Some(self.program)
        };
        let Some(at) = listed.iter().position(is_this) else {
            return Ok(Rank::Missing);
        };
        Ok(listed[..at].first().map_or(Rank::First, |filter| {
            let Listed {
                kind,
                priority,
                handle,
                name,
                ..
            } = filter;
            let name = name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            Rank::After(format!(
                "the {kind} filter{name} of priority {priority}, handle {handle:#x}"
            ))
        }))
    }

    /// Takes off the filter with our handle at this priority, whatever its program.
    fn delete(requests: &mut Requests, ifindex: u32, hook: Hook, priority: u32) -> Result<(), NetlinkError> {
        let filter = Self {
            ifindex,
            hook,
            priority,
            program: 0,
        };
        filter.detach(requests)
    }

    /// Takes the filter off. That it or its interface is gone already is no error.
    pub fn detach(self, requests: &mut Requests) -> Result<(), NetlinkError> {
        let mut message = TcMessage::from_parts(self.header(), Vec::new());
        message
            .attributes
            .push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        match requests.acknowledged(RouteNetlinkMessage::DelTrafficFilter(message), 0) {
            Err(error) if error.is(libc::ENODEV) || error.is(libc::ENOENT) || error.is(libc::EINVAL) => {
                Ok(())
            }
            result => result,
        }
    }

    fn header(self) -> TcHeader {
        header(
            self.ifindex,
            self.hook,
            FILTER_HANDLE,
            self.priority,
            PROTOCOL_ALL,
        )
    }
}

/// A program as a filter needs it.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The loaded program.
    pub fd: BorrowedFd<'a>,
    /// The kernel's number for it.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
}

pub(super) fn header(ifindex: u32, hook: Hook, handle: u32, priority: u32, protocol: u32) -> TcHeader {
    let parent = match hook {
        Hook::Ingress => PARENT_INGRESS,
        Hook::Egress => PARENT_EGRESS,
    };
    TcHeader {
        index: index(ifindex),
        parent: TcHandle::from(parent),
        handle: TcHandle::from(handle),
        info: priority << 16 | protocol,
        ..TcHeader::default()
    }
}

/// Refuses an `ingress` qdisc. It has clsact's place and handle but one list of filters only, and the kernel takes
/// any number for that list's: the egress filter would run at ingress, in the other's stead.
fn must_be_clsact(requests: &mut Requests, ifindex: u32) -> Result<(), NetlinkError> {
    let mut question = TcMessage::with_index(index(ifindex));
    question.header.parent = TcHandle::from(PARENT_CLSACT);
    let RouteNetlinkMessage::NewQueueDiscipline(answer) =
        requests.get(RouteNetlinkMessage::GetQueueDiscipline(question))?
    else {
        return Err(NetlinkError::Unanswered);
    };
    let kind = answer
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind),
            _ => None,
        });
    match kind {
        Some(kind) if kind == QDISC_KIND => Ok(()),
        Some(kind) => Err(NetlinkError::Occupied(kind)),
        None => Err(NetlinkError::Unanswered),
    }
}

/// The kernel's headers carry the index as a signed number.
fn index(ifindex: u32) -> i32 {
    ifindex.cast_signed()
}
