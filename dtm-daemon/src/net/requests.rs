//! Questions and orders to the kernel over a route netlink socket, answered before the call returns.
//!
//! The kernel handles them inside `sendto`; a call takes microseconds, or as long as somebody holds RTNL.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `NLMSG_MIN_TYPE`: what is below is netlink's own, not a family's.
const NLMSG_MIN_TYPE: u16 = 0x10;

/// More than any single message of the kernel; a dump comes in pieces of at most this.
const BUFFER: usize = 64 * 1024;

/// How often a dump that changed under the reader is asked for again.
const DUMP_ATTEMPTS: usize = 10;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
    /// Another tool's qdisc is where this one belongs.
    #[error("a qdisc of the kind {0} has its place")]
    Occupied(String),
    /// The socket failed.
    #[error("talk to the kernel over netlink")]
    Socket(#[from] io::Error),
    /// The answer could not be understood.
    #[error("decode the kernel's answer")]
    Decode(#[source] DecodeError),
    /// The kernel answered with something else, or kept changing its mind.
    #[error("no consistent answer from the kernel")]
    Unanswered,
}

impl NetlinkError {
    /// Whether the kernel refused with this error number.
    pub fn is(&self, number: i32) -> bool {
        matches!(self, Self::Refused(error) if error.raw_os_error() == Some(number))
    }
}

/// A socket for requests in the network namespace of the thread that opened it.
pub struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// Opens a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Lets a dump be asked for in another namespace (IFA_TARGET_NETNSID); kernel 4.20 and later.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// The socket's own address: the kernel says it in what it tells others of this socket's orders.
    pub fn port(&self) -> Result<u32, NetlinkError> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Orders something and waits for the kernel's acknowledgement.
    pub fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, |_answer| Ok(()))
            .map(drop)
    }

    /// Asks for one object.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, NetlinkError> {
        let mut answer = None;
        // Without the echo, traffic control tells its listeners the answer and not whoever asked.
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO, |message| {
            answer = inner(message)?;
            Ok(())
        })?;
        answer.ok_or(NetlinkError::Unanswered)
    }

    /// Asks for all objects of a kind; asks again where they changed meanwhile.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.dump_with(message, inner)
    }

    /// As [`dump`](Self::dump), keeping of each object what `read` makes of it: a decoded link alone takes 20 kB.
    pub fn dump_as<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_with(message, |bytes| Ok(inner(bytes)?.and_then(&read)))
    }

    /// As [`dump`](Self::dump), of what others made: `read` finds what matters in a whole message's bytes, for what they
    /// put into the rest may be nothing that can be decoded.
    pub fn dump_with<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        mut read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut answers = Vec::new();
            let consistent = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, |message| {
                answers.extend(read(message)?);
                Ok(())
            })?;
            if consistent {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Unanswered)
    }

    /// Sends one request and hands out its answers up to the acknowledgement or the end of the dump. Whether the
    /// answers are consistent with each other.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut consistent = true;
        loop {
            self.buffer.clear();
            let received = self.socket.recv(&mut self.buffer, 0)?;
            for frame in frames(&self.buffer[..received]) {
                let header = NetlinkBuffer::new_checked(frame).map_err(NetlinkError::Decode)?;
                if header.sequence_number() != self.sequence {
                    // The rest of an answer whose reader gave up.
                    continue;
                }
                consistent &= header.flags() & NLM_F_DUMP_INTR == 0;
                if header.message_type() >= NLMSG_MIN_TYPE {
                    answer(frame).map_err(NetlinkError::Decode)?;
                    continue;
                }
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(frame);
                match message.map_err(NetlinkError::Decode)?.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused(error.to_io()));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(consistent),
                    _ => {}
                }
            }
        }
    }
}

/// What a message of the route family says.
pub(super) fn inner(frame: &[u8]) -> Result<Option<RouteNetlinkMessage>, DecodeError> {
    Ok(match NetlinkMessage::deserialize(frame)?.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    })
}

/// The messages in one datagram, each with its header.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        // `struct nlmsghdr` begins with the length of the whole message; messages are aligned to 4 bytes.
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let length = length.clamp(16, bytes.len().max(16));
        let message = bytes.get(..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}
