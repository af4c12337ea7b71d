//! What happens to interfaces, as it happens.

use std::{io, os::fd::AsRawFd as _};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

use super::{Link, requests::messages};

/// `RTNLGRP_LINK` as a bit of the address' groups.
const GROUP_LINK: u32 = 1;

/// Room for the bursts of a host that starts a hundred containers at once; the kernel's default holds some thirty
/// messages.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// Room for one datagram; the kernel's are at most this large.
const BUFFER: usize = 64 * 1024;

/// A change of the namespace's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface is new or has changed: this is it now.
    Changed(Link),
    /// The interface is gone.
    Removed(Link),
    /// Events were lost: only a dump can tell what is there.
    Overflow,
}

/// A subscription to the interfaces of the namespace it was made in. What happens after [`LinkWatch::open`] is not
/// missed, or an [`LinkEvent::Overflow`] says so.
pub struct LinkWatch {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Subscribes.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUP_LINK))?;
        socket.set_non_blocking(true)?;
        force_receive_buffer(&socket);
        Ok(Self {
            socket: register(socket)?,
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
            let events: Vec<_> = messages(&self.buffer[..received])
                .filter_map(|message| match message {
                    Ok(message) => event(&message.payload),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(error, "cannot decode a link event");
                        Some(LinkEvent::Overflow)
                    }
                })
                .collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

fn event(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<LinkEvent> {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) if is_own(message) => {
            Some(LinkEvent::Changed(Link::from_message(message)))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) if is_own(message) => {
            Some(LinkEvent::Removed(Link::from_message(message)))
        }
        _ => None,
    }
}

/// Bridges speak of their ports in messages of their own family: a port that leaves its bridge is a `DELLINK` there
/// though the interface lives on.
fn is_own(message: &netlink_packet_route::link::LinkMessage) -> bool {
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
