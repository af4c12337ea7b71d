//! What the kernel's TCP and UDP make of a program's bytes.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::options::{set_option, unsent};

/// `UDP_SEGMENT` of `include/uapi/linux/udp.h`.
const UDP_SEGMENT: libc::c_int = 103;
/// `UDP_GRO` of the same.
const UDP_GRO: libc::c_int = 104;

/// The kernel gives up on a silent neighbour after three seconds.
const SENT_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn udp_send(to: &str, count: usize, size: usize, segment: Option<u16>) -> Result<()> {
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).context("make a socket")?;
    socket.connect(to).with_context(|| format!("connect to {to}"))?;
    if let Some(segment) = segment {
        set_option(&socket, libc::SOL_UDP, UDP_SEGMENT, libc::c_int::from(segment))?;
    }
    let payload = vec![b'u'; size];
    for number in 0..count {
        let sent = socket
            .send(&payload)
            .with_context(|| format!("send datagram {number}"))?;
        ensure!(sent == size, "only {sent} bytes of {size} were sent");
    }
    // Datagrams wait for the neighbour's hardware address; a container that ends first takes them with it.
    xtask::host::eventually(SENT_WITHIN, "the datagrams have left", || {
        Ok((unsent(&socket)? == 0).then_some(()))
    })?;
    println!("sent {count}");
    Ok(())
}

pub(crate) fn udp_receive(port: u16, merged: bool) -> Result<()> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_no_ipv6| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    // Whoever is given a turn late must not lose what was sent meanwhile.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
    set_option(&socket, libc::SOL_UDP, UDP_GRO, libc::c_int::from(merged))?;
    let mut buffer = vec![0; 65536];
    loop {
        socket.recv(&mut buffer)?;
    }
}

pub(crate) fn tcp_send(to: &str, bytes: usize) -> Result<()> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    let piece = vec![b't'; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(piece.len());
        stream.write_all(&piece[..length])?;
        left -= length;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer == bytes.to_string().as_bytes(),
        "the other side has read another number of bytes"
    );
    println!("sent {bytes}");
    Ok(())
}

pub(crate) fn tcp_receive(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_no_ipv6| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    let mut buffer = vec![0; 256 * 1024];
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut total = 0_usize;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                read => total += read,
            }
        }
        stream.write_all(total.to_string().as_bytes())?;
    }
    Ok(())
}
