//! Sends and receives exactly what it is told, so that a test knows what went over the wire. Runs in the test's
//! containers.
//!
//! ```text
//! traffic udp-send ADDRESS:PORT DATAGRAMS SIZE [SEGMENT]   with SEGMENT, as UDP_SEGMENT buffers of SIZE
//! traffic udp-receive PORT                                 for ever
//! traffic tcp-send ADDRESS:PORT BYTES                      waits until the other side has read all of it
//! traffic tcp-receive PORT                                 for ever
//! ```

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, bail, ensure};

/// `UDP_SEGMENT` of `include/uapi/linux/udp.h`.
const UDP_SEGMENT: libc::c_int = 103;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["udp-send", to, count, size] => udp_send(to, count.parse()?, size.parse()?, None),
        ["udp-send", to, count, size, segment] => {
            udp_send(to, count.parse()?, size.parse()?, Some(segment.parse()?))
        }
        ["udp-receive", port] => udp_receive(port.parse()?),
        ["tcp-send", to, bytes] => tcp_send(to, bytes.parse()?),
        ["tcp-receive", port] => tcp_receive(port.parse()?),
        _ => bail!("see the top of traffic.rs"),
    }
}

fn udp_send(to: &str, count: usize, size: usize, segment: Option<u16>) -> Result<()> {
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
    println!("sent {count}");
    Ok(())
}

fn set_option(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
    #[expect(unsafe_code, reason = "these options have no wrapper")]
    // SAFETY: the option's value is an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ensure!(
        result == 0,
        "set option {option}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn udp_receive(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_no_ipv6| UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port)))?;
    // Whoever is given a turn late must not lose what was sent meanwhile.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
    let mut buffer = vec![0; 65536];
    loop {
        socket.recv(&mut buffer)?;
    }
}

fn tcp_send(to: &str, bytes: usize) -> Result<()> {
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

fn tcp_receive(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_no_ipv6| TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)))?;
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
