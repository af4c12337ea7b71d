//! The other end of a veth pair, asked about without entering its namespace.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::Arc,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};

use serde::{Deserialize, Serialize};

use super::{Link, NetlinkError, Requests, addresses::local_address};

/// An interface in another namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name there, such as `eth0`.
    pub name: Arc<str>,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
    /// Whether it is switched on: its name and addresses are set before.
    pub up: bool,
    /// The addresses it has, link-local ones included; asked about once it is on.
    pub addresses: Vec<IpAddr>,
}

/// The id this namespace has for the one behind `netns`; none where it has none yet.
///
/// Ids are handed out when the kernel first has to name the namespace, which a veth pair between the two makes it do.
pub fn namespace_id(requests: &mut Requests, netns: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
    let mut message = NsidMessage::default();
    message
        .attributes
        .push(NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned()));
    let RouteNetlinkMessage::NewNsId(answer) = requests.get(RouteNetlinkMessage::GetNsId(message))? else {
        return Err(NetlinkError::Unanswered);
    };
    Ok(answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id).filter(|id| *id >= 0),
        _ => None,
    }))
}

/// The interface `ifindex` of the namespace with the id `nsid`, if it is the other end of `other_end`, or a device on top
/// of that: ids and indices are used again.
///
/// # Errors
///
/// `ENODEV` where the interface is gone, `EINVAL` where the namespace is.
///
/// # Minimum kernel version
///
/// 4.20 (`IFLA_TARGET_NETNSID`, `IFA_TARGET_NETNSID`).
pub fn peer(
    requests: &mut Requests,
    other_end: u32,
    nsid: i32,
    ifindex: u32,
) -> Result<Option<Peer>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::IfNetnsId(nsid));
    let RouteNetlinkMessage::NewLink(answer) = requests.get(RouteNetlinkMessage::GetLink(message))? else {
        return Err(NetlinkError::Unanswered);
    };
    let link = Link::from_message(&answer);
    if link.peer != Some(other_end) {
        return Ok(None);
    }
    let addresses = addresses(requests, &link, Some(nsid))?;
    Ok(Some(described(link, addresses)))
}

/// A device of a container's own, in the namespace `requests` was opened in.
pub fn device(requests: &mut Requests, link: &Link) -> Result<Peer, NetlinkError> {
    let addresses = addresses(requests, link, None)?;
    Ok(described(link.clone(), addresses))
}

fn described(link: Link, addresses: Vec<IpAddr>) -> Peer {
    Peer {
        name: link.name,
        mac: link.mac,
        up: link.up,
        addresses,
    }
}

/// The addresses of an interface that is switched on.
fn addresses(requests: &mut Requests, link: &Link, nsid: Option<i32>) -> Result<Vec<IpAddr>, NetlinkError> {
    let mut addresses = Vec::new();
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    for family in families.into_iter().filter(|_family| link.up) {
        let mut message = AddressMessage::default();
        message.header.family = family;
        message.header.index = link.ifindex;
        message
            .attributes
            .extend(nsid.map(AddressAttribute::TargetNetNsId));
        for answer in requests.dump(&RouteNetlinkMessage::GetAddress(message))? {
            let RouteNetlinkMessage::NewAddress(answer) = answer else {
                continue;
            };
            if answer.header.index == link.ifindex {
                addresses.extend(local_address(&answer));
            }
        }
    }
    Ok(addresses)
}
