//! What happens to interfaces, as it happens.

use std::{io, ops::RangeInclusive, os::fd::AsRawFd as _};

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

use super::{
    InterfaceAddress, Link,
    addresses::interface_address,
    requests::{frames, inner},
};

/// `RTNLGRP_LINK`, `RTNLGRP_TC`, `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` as bits of the address' groups.
const GROUP_LINK: u32 = 1;
const GROUP_TC: u32 = 1 << 3;
const GROUP_IPV4_ADDRESSES: u32 = 1 << 4;
const GROUP_IPV6_ADDRESSES: u32 = 1 << 8;

/// What traffic control tells, `include/uapi/linux/rtnetlink.h`: its qdiscs are 36 to 38, its classes 40 to 42, its
/// filters 44 to 46, its actions 48 to 50, its chains 100 to 102.
const TRAFFIC_CONTROL: [RangeInclusive<u16>; 2] = [36..=50, 100..=102];
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;

/// Room for the bursts of a host that starts a hundred containers at once; the kernel's default holds some thirty
/// messages.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// Room for one datagram; the kernel's are at most this large.
const BUFFER: usize = 64 * 1024;

/// Where an interface has gone that left its namespace. The kernel says so with the farewell since 4.15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedTo {
    /// Id of the namespace it is in now.
    pub nsid: i32,
    /// Its index there.
    pub ifindex: u32,
}

/// A change of the namespace's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface is new or has changed: this is it now.
    Changed(Link),
    /// The interface is gone: to another namespace, or for good.
    Removed(Link, Option<MovedTo>),
    /// Somebody else changed the filters of this interface, or took its qdisc away.
    Filters(u32),
    /// An interface has an address from now on, or again.
    AddressAdded(InterfaceAddress),
    /// An interface has an address no more.
    AddressRemoved(InterfaceAddress),
    /// Events were lost: only a dump can tell what is there.
    Overflow,
}

/// A subscription that nobody reads yet: it can be made on a thread of another namespace.
pub struct LinkSubscription {
    socket: Socket,
    own: u32,
}

impl LinkSubscription {
    /// Subscribes to the calling thread's namespace. What the socket with the address `own` does to filters is not told.
    pub fn open(own: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let groups = GROUP_LINK | GROUP_TC | GROUP_IPV4_ADDRESSES | GROUP_IPV6_ADDRESSES;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        force_receive_buffer(&socket);
        Ok(Self { socket, own })
    }
}

/// A subscription to the interfaces of a namespace, and to what others do to their filters. What happens after
/// [`LinkSubscription::open`] is not missed, or a [`LinkEvent::Overflow`] says so.
pub struct LinkWatch {
    socket: AsyncFd<Socket>,
    own: u32,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Gets ready to read a subscription, in a runtime.
    pub fn new(subscription: LinkSubscription) -> io::Result<Self> {
        let LinkSubscription { socket, own } = subscription;
        Ok(Self {
            socket: register(socket)?,
            own,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Waits for the next events. Cancel safe: events not handed out are read by the next call.
    pub async fn next(&mut self) -> io::Result<Vec<LinkEvent>> {
        loop {
            let mut ready = self.socket.readable().await?;
            self.buffer.clear();
            let buffer = &mut self.buffer;
            let received = match ready.try_io(|socket| socket.get_ref().recv(buffer, 0)) {
                Ok(Ok(received)) => received,
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(vec![LinkEvent::Overflow]);
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            };
            let events: Vec<_> = frames(&self.buffer[..received])
                .filter_map(|frame| event(frame, self.own))
                .collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

fn event(frame: &[u8], own: u32) -> Option<LinkEvent> {
    let header = NetlinkBuffer::new_checked(frame).ok()?;
    let kind = header.message_type();
    if TRAFFIC_CONTROL.iter().any(|kinds| kinds.contains(&kind)) {
        // What somebody's filter holds need not be understood: the interface's index is the second word.
        let ifindex = u32::from_ne_bytes(*header.payload().get(4..)?.first_chunk()?);
        let matters = matches!(kind, RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER);
        return (matters && header.port_number() != own).then_some(LinkEvent::Filters(ifindex));
    }
    match inner(frame) {
        Ok(Some(RouteNetlinkMessage::NewLink(message))) if is_own(&message) => {
            Some(LinkEvent::Changed(Link::from_message(&message)))
        }
        Ok(Some(RouteNetlinkMessage::DelLink(message))) if is_own(&message) => Some(LinkEvent::Removed(
            Link::from_message(&message),
            moved_to(&message),
        )),
        Ok(Some(RouteNetlinkMessage::NewAddress(message))) => {
            interface_address(&message).map(LinkEvent::AddressAdded)
        }
        Ok(Some(RouteNetlinkMessage::DelAddress(message))) => {
            interface_address(&message).map(LinkEvent::AddressRemoved)
        }
        Ok(_) => None,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "cannot decode a link event");
            Some(LinkEvent::Overflow)
        }
    }
}

fn moved_to(message: &LinkMessage) -> Option<MovedTo> {
    let (mut nsid, mut ifindex) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::NewNetnsId(id) => nsid = Some(*id).filter(|id| *id >= 0),
            LinkAttribute::NewIfIndex(index) => ifindex = u32::try_from(*index).ok(),
            _ => {}
        }
    }
    Some(MovedTo {
        nsid: nsid?,
        ifindex: ifindex.unwrap_or(message.header.index),
    })
}

/// Bridges speak of their ports in messages of their own family: a port that leaves its bridge is a `DELLINK` there
/// though the interface lives on.
fn is_own(message: &LinkMessage) -> bool {
    message.header.interface_family == netlink_packet_route::AddressFamily::Unspec
}

#[expect(
    unsafe_code,
    reason = "the promise that the descriptor stays open is the caller's"
)]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor and nothing closes it before it is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Makes room for bursts, past the host's limit where dtm may; a smaller buffer only means resynchronising earlier.
fn force_receive_buffer(socket: &Socket) {
    let size = RECEIVE_BUFFER;
    #[expect(unsafe_code, reason = "SO_RCVBUFFORCE has no wrapper")]
    // SAFETY: the option's value is an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            std::ptr::from_ref(&size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "the receive buffer of link events stays at the host's default");
    }
}
