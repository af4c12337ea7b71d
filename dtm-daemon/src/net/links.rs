//! Interfaces of a network namespace.

use std::{io, os::fd::OwnedFd, sync::Arc};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
};

use serde::{Deserialize, Serialize};

use super::{NetlinkError, Requests};

/// What kind of interface it is, as far as dtm tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkKind {
    /// One end of a virtual Ethernet pair.
    Veth,
    /// A Linux bridge.
    Bridge,
    /// A device on top of another that a container has to itself: macvlan, ipvlan.
    OwnDevice,
    /// Anything else.
    Other,
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its index, unique within its namespace.
    pub ifindex: u32,
    /// Its name at this moment.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: LinkKind,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// For a veth: index of the other end, in the other end's namespace. For a device on top of another: index of that.
    pub peer: Option<u32>,
    /// For a veth: this namespace's id for the other end's namespace; none where both ends are in this one. Likewise for
    /// a device on top of another.
    pub peer_nsid: Option<i32>,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
    /// Whether it is switched on (`IFF_UP`).
    pub up: bool,
}

impl Link {
    /// Reads what matters out of a link message.
    pub fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            name: Arc::from(""),
            kind: LinkKind::Other,
            master: None,
            peer: None,
            peer_nsid: None,
            mac: None,
            up: message.header.flags.contains(LinkFlags::Up),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = Arc::from(name.as_str()),
                LinkAttribute::Controller(master) => link.master = Some(*master).filter(|index| *index != 0),
                LinkAttribute::Link(peer) => link.peer = Some(*peer).filter(|index| *index != 0),
                // -1 says that the namespace has no id here.
                LinkAttribute::LinkNetNsId(nsid) => link.peer_nsid = Some(*nsid).filter(|nsid| *nsid >= 0),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
                _ => {}
            }
        }
        link
    }

    /// What stands for the control group with this path, which has no interface.
    pub fn of_group(path: Arc<str>) -> Self {
        Self {
            ifindex: 0,
            name: path,
            kind: LinkKind::Other,
            master: None,
            peer: None,
            peer_nsid: None,
            mac: None,
            up: true,
        }
    }

    /// Whether a container can have it to itself, with no end of it at the host.
    pub fn is_own_device(&self) -> bool {
        self.kind == LinkKind::OwnDevice
    }

    /// Whether this is the host's end of somebody's veth pair: a port of a bridge. Its other end may not have been
    /// moved into its namespace yet.
    pub fn is_host_end(&self) -> bool {
        self.kind == LinkKind::Veth && self.master.is_some()
    }
}

fn kind(infos: &[LinkInfo]) -> LinkKind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Veth) => LinkKind::Veth,
        Some(InfoKind::Bridge) => LinkKind::Bridge,
        Some(InfoKind::MacVlan | InfoKind::IpVlan) => LinkKind::OwnDevice,
        _ => LinkKind::Other,
    }
}

/// Every interface of the namespace `requests` was opened in.
pub fn dump(requests: &mut Requests) -> Result<Vec<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    // Statistics are half of an answer, and gathering them is most of the kernel's work.
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    requests.dump_as(&RouteNetlinkMessage::GetLink(message), |answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(&message)),
        _ => None,
    })
}

/// One interface of the namespace `requests` was opened in.
///
/// # Errors
///
/// `ENODEV` where it is gone.
pub fn get(requests: &mut Requests, ifindex: u32) -> Result<Link, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    match requests.get(RouteNetlinkMessage::GetLink(message))? {
        RouteNetlinkMessage::NewLink(answer) => Ok(Link::from_message(&answer)),
        _ => Err(NetlinkError::Unanswered),
    }
}

/// Asks whether an index is in use, in the namespace it was opened in. Unlike netlink's questions about interfaces, this
/// one does not wait for RTNL.
#[derive(Debug)]
pub struct Indices(OwnedFd);

impl Indices {
    /// Opens the socket to ask over.
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::DGRAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self(socket))
    }

    /// Whether there is an interface with this index.
    pub fn is_used(&self, ifindex: u32) -> bool {
        rustix::net::netdevice::index_to_name(&self.0, ifindex).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_used_or_not() {
        let indices = Indices::open().unwrap();
        assert!(indices.is_used(1), "every namespace has a loopback");
        assert!(!indices.is_used(0));
        assert!(!indices.is_used(u32::MAX / 2));
    }
}
