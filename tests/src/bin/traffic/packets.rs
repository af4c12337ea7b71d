//! Frames as they are, over a packet socket.

use std::{ffi::CString, io, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::options::set_option;

/// `PACKET_VNET_HDR` of `include/uapi/linux/if_packet.h`.
const PACKET_VNET_HDR: libc::c_int = 15;
/// `PACKET_QDISC_BYPASS` of the same.
const PACKET_QDISC_BYPASS: libc::c_int = 20;

/// How a buffer is to be cut up: what `struct virtio_net_hdr` tells the kernel, which does not count the segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segmentation {
    /// `VIRTIO_NET_HDR_GSO_*`.
    kind: u8,
    /// Where the checksum is in the transport header.
    checksum: u16,
    /// Where the transport header starts, and how long it is.
    transport: u16,
    header: u16,
    /// Payload of a segment.
    size: u16,
}

impl Segmentation {
    /// `headers`: bytes before the payload.
    pub(crate) fn parse(kind: &str, headers: u16, size: u16) -> Result<Self> {
        let (kind, checksum, header) = match kind {
            "tcp4" => (1, 16, 20),
            "tcp6" => (4, 16, 20),
            "udp" => (5, 6, 8),
            _ => bail!("no such kind of buffer: {kind}"),
        };
        Ok(Self {
            kind,
            checksum,
            transport: headers - header,
            header,
            size,
        })
    }

    /// `struct virtio_net_hdr`, all little endian or of one byte.
    fn to_bytes(self) -> Vec<u8> {
        const NEEDS_CHECKSUM: u8 = 1;
        let Self {
            kind,
            checksum,
            transport,
            header,
            size,
        } = self;
        let words = [transport + header, size, transport, checksum];
        [NEEDS_CHECKSUM, kind]
            .into_iter()
            .chain(words.into_iter().flat_map(u16::to_ne_bytes))
            .collect()
    }
}

pub(crate) fn frames(interface: &str, count: usize, frame: &str, bypass: bool) -> Result<()> {
    let socket = open(interface)?;
    if bypass {
        set_option(&socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
    }
    send(&socket, count, &parse(frame)?)
}

pub(crate) fn buffers(interface: &str, count: usize, frame: &str, segmentation: Segmentation) -> Result<()> {
    let socket = open(interface)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    let mut bytes = segmentation.to_bytes();
    bytes.extend(parse(frame)?);
    send(&socket, count, &bytes)
}

/// One frame a millisecond. While the interface is down nothing is sent.
pub(crate) fn stream(interface: &str, frame: &str) -> Result<()> {
    let socket = open(interface)?;
    let frame = parse(frame)?;
    loop {
        match socket.send(&frame) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENOBUFS)) => {}
            Err(error) => return Err(error).context("send a frame"),
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause is the pace of the stream, nothing waits for it"
        )]
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send(socket: &Socket, count: usize, bytes: &[u8]) -> Result<()> {
    for number in 0..count {
        let sent = socket
            .send(bytes)
            .with_context(|| format!("send frame {number}"))?;
        ensure!(sent == bytes.len(), "only {sent} bytes were sent");
    }
    println!("sent {count}");
    Ok(())
}

/// A packet socket for `interface` that receives nothing.
fn open(interface: &str) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)));
    let socket = socket.context("make a packet socket")?;
    let index = index(interface)?;
    #[expect(unsafe_code, reason = "no wrapper knows this kind of address")]
    // SAFETY: there is room for any kind of address, all of it zeroes, and `sockaddr_ll` is one.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = &mut *storage.cast::<libc::sockaddr_ll>();
            link.sll_family = libc::AF_PACKET as libc::c_ushort;
            link.sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    socket
        .bind(&address)
        .with_context(|| format!("bind to {interface}"))?;
    Ok(socket)
}

/// The interface's index, in the namespace this runs in.
pub(crate) fn index(interface: &str) -> Result<i32> {
    let name = CString::new(interface)?;
    #[expect(unsafe_code, reason = "no wrapper is worth a dependency")]
    // SAFETY: the name ends with a zero and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "{interface}: {}", io::Error::last_os_error());
    Ok(i32::try_from(index)?)
}

fn parse(hexadecimal: &str) -> Result<Vec<u8>> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits
        .map(|pair| Ok(u8::from_str_radix(str::from_utf8(pair)?, 16)?))
        .collect()
}
