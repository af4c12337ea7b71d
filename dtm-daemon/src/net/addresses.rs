//! Addresses of interfaces.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::{NetlinkError, Requests};

/// An address of an interface, by the interface's index.
pub type InterfaceAddress = (u32, IpAddr);

/// Every address of the namespace `requests` was opened in.
pub fn dump_addresses(requests: &mut Requests) -> Result<Vec<InterfaceAddress>, NetlinkError> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = AddressMessage::default();
        message.header.family = family;
        let found = requests.dump_as(&RouteNetlinkMessage::GetAddress(message), |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => interface_address(&message),
            _ => None,
        })?;
        all.extend(found);
    }
    Ok(all)
}

/// Whose address a message tells of.
pub(super) fn interface_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    Some((message.header.index, local_address(message)?))
}

/// The interface's own address: `IFA_LOCAL` where the kernel tells the two apart, else `IFA_ADDRESS`.
pub(super) fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}
