//! TC filters on a `clsact` qdisc, in one netlink message each.
//!
//! The qdisc itself is never deleted, not even one dtm made: somebody may have put filters on it since.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use dtm_common::traffic::Direction;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
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
const FILTER_HANDLE: u32 = 0x0064_746d;

/// Filters run in order of priority; 1 is the first. A priority belongs to one kind of filter, so where another
/// kind has it the next one is tried.
const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=8;

/// `ETH_P_ALL` in network byte order, as the lower half of `tcm_info` holds it.
const PROTOCOL_ALL: u32 = 0x0003_u16.to_be() as u32;

/// `TCA_BPF_FLAG_ACT_DIRECT`: the program's return value is the verdict.
const DIRECT_ACTION: u32 = 1;

/// A filter of ours on one direction of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClsactFilter {
    ifindex: u32,
    direction: Direction,
    priority: u32,
}

impl ClsactFilter {
    /// Makes sure the interface has a clsact qdisc.
    ///
    /// # Errors
    ///
    /// `ENODEV` where the interface is gone, [`NetlinkError::Occupied`] where it has an `ingress` qdisc.
    pub fn ensure_qdisc(requests: &mut Requests, ifindex: u32) -> Result<(), NetlinkError> {
        let mut message = TcMessage::with_index(index(ifindex));
        message.header.parent = TcHandle::from(PARENT_CLSACT);
        message.header.handle = TcHandle::from(HANDLE_CLSACT);
        message.attributes.push(TcAttribute::Kind(QDISC_KIND.to_owned()));
        let result = requests.acknowledged(
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match result {
            Err(error) if error.is(libc::EEXIST) => must_be_clsact(requests, ifindex),
            result => result,
        }
    }

    /// Puts `program` on one direction of the interface, replacing one of ours that is there already.
    ///
    /// `direction` is the container's, seen from the host end: what the container transmits comes in there.
    ///
    /// # Errors
    ///
    /// `ENODEV` where the interface is gone.
    pub fn attach(
        requests: &mut Requests,
        ifindex: u32,
        direction: Direction,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<Self, NetlinkError> {
        let options = vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::from_bits_retain(
                DIRECT_ACTION,
            ))),
        ];
        let mut refused = None;
        for priority in PRIORITIES {
            let filter = Self {
                ifindex,
                direction,
                priority,
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

    /// Whether the filter is still there, with the program that `attach` put on it or another of that name.
    pub fn is_attached(self, requests: &mut Requests) -> Result<bool, NetlinkError> {
        let mut message = TcMessage::from_parts(self.header(), Vec::new());
        message
            .attributes
            .push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        match requests.get(RouteNetlinkMessage::GetTrafficFilter(message)) {
            Ok(_filter) => Ok(true),
            Err(error) if error.is(libc::ENODEV) || error.is(libc::ENOENT) || error.is(libc::EINVAL) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
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
        let parent = match self.direction {
            Direction::Transmit => PARENT_INGRESS,
            Direction::Receive => PARENT_EGRESS,
        };
        TcHeader {
            index: index(self.ifindex),
            parent: TcHandle::from(parent),
            handle: TcHandle::from(FILTER_HANDLE),
            info: self.priority << 16 | PROTOCOL_ALL,
            ..TcHeader::default()
        }
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
