//! Sockets that nobody reads from.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

/// Takes as little as the kernel allows, and leaves it there.
pub(crate) fn udp_neglect(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).context("make a socket")?;
    let socket = Socket::from(socket);
    socket.set_recv_buffer_size(0).context("make its buffer small")?;
    park()
}

/// As many members of a group as there are sockets.
pub(crate) fn multicast_receive(group: SocketAddrV4, interface: Ipv4Addr, sockets: usize) -> Result<()> {
    let join = || -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).context("make a socket")?;
        socket.set_reuse_address(true).context("share its address")?;
        socket.bind(&group.into()).context("bind it to the group")?;
        socket
            .join_multicast_v4(group.ip(), &interface)
            .context("join the group")?;
        Ok(socket)
    };
    let _members = (0..sockets).map(|_| join()).collect::<Result<Vec<_>>>()?;
    park()
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}
