//! The filters that are on an interface, whoever put them there.

use netlink_packet_core::{
    DecodeError, NetlinkBuffer, NlasIterator, Parseable as _, parse_string, parse_u32,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcFilterBpf, TcFilterBpfOption, TcHeader, TcMessage},
};

use super::{
    clsact::{FILTER_HANDLE, PROTOCOL_ALL, header},
    side::Hook,
};
use crate::net::{NetlinkError, Requests};

/// Size of `struct tcmsg`, before the attributes.
const TC_HEADER: usize = 20;

/// How every program of dtm's is called, and with it its filter.
const OURS: &str = "dtm_";

/// A filter at one hook of an interface, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) priority: u32,
    protocol: u32,
    pub(super) handle: u32,
    pub(super) kind: String,
    pub(super) name: Option<String>,
    pub(super) program: Option<u32>,
}

impl Listed {
    /// Whether another filter of ours may have the same priority.
    pub(super) fn leaves_room(&self) -> bool {
        self.kind == TcFilterBpf::KIND && self.protocol == PROTOCOL_ALL
    }

    pub(super) fn is_ours(&self) -> bool {
        self.leaves_room()
            && self.handle == FILTER_HANDLE
            && self.name.as_ref().is_some_and(|name| name.starts_with(OURS))
    }
}

/// The filters at one hook, in the order in which they run. Those of chains that a packet only gets to by another
/// filter's word are left out.
pub(super) fn list(requests: &mut Requests, ifindex: u32, hook: Hook) -> Result<Vec<Listed>, NetlinkError> {
    let message = TcMessage::from_parts(header(ifindex, hook, 0, 0, 0), Vec::new());
    let question = RouteNetlinkMessage::GetTrafficFilter(message);
    match requests.dump_with(&question, listed) {
        // There is no qdisc.
        Err(error) if error.is(libc::EINVAL) || error.is(libc::ENOENT) => Ok(Vec::new()),
        result => result,
    }
}

/// Reads a filter out of a message: only what matters here, for the rest is anybody's.
fn listed(message: &[u8]) -> Result<Option<Listed>, DecodeError> {
    const TCA_KIND: u16 = 1;
    const TCA_OPTIONS: u16 = 2;
    const TCA_CHAIN: u16 = 11;
    let payload = NetlinkBuffer::new_checked(message)?.payload();
    let header = TcHeader::parse(payload)?;
    let handle = u32::from(header.handle);
    // Each priority begins with an entry of its own that is no filter.
    if handle == 0 {
        return Ok(None);
    }
    let mut filter = Listed {
        priority: header.info >> 16,
        protocol: header.info & 0xffff,
        handle,
        kind: String::new(),
        name: None,
        program: None,
    };
    let attributes = payload.get(TC_HEADER..).unwrap_or_default();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            TCA_KIND => filter.kind = parse_string(attribute.value())?,
            TCA_CHAIN if parse_u32(attribute.value())? != 0 => return Ok(None),
            TCA_OPTIONS if filter.kind == TcFilterBpf::KIND => {
                for option in NlasIterator::new(attribute.value()) {
                    match TcFilterBpfOption::parse(&option?)? {
                        TcFilterBpfOption::ProgName(name) => filter.name = Some(name),
                        TcFilterBpfOption::ProgId(id) => filter.program = Some(id),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Some(filter))
}
