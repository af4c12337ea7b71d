//! Listening sockets.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::config::{Config, ListenAddress};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long a client may let an answer wait that it does not take. The kernel watches; connections inherit it
/// from the listening socket.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Listens on every configured address, or on none.
///
/// # Errors
///
/// Where one cannot be listened on; the error names it.
///
/// # Panics
///
/// Outside the runtime, which the sockets belong to.
pub async fn bind(config: &Config) -> anyhow::Result<Vec<TcpListener>> {
    let listen = |address: &ListenAddress| {
        listen(*address).with_context(|| format!("listen on {address} (--web.listen-address)"))
    };
    config.listen_addresses.iter().map(listen).collect()
}

fn listen(address: ListenAddress) -> anyhow::Result<TcpListener> {
    let listener = match address {
        ListenAddress::One(address) => listen_on(address),
        ListenAddress::Any(port) => match listen_on((Ipv6Addr::UNSPECIFIED, port).into()) {
            // IPv6 is not there or switched off.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                listen_on((Ipv4Addr::UNSPECIFIED, port).into())
            }
            result => result,
        },
    };
    listener.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                Some("another process, perhaps another dtm, has it: choose another port")
            }
            io::ErrorKind::AddrNotAvailable => Some("it is no address of this host"),
            io::ErrorKind::PermissionDenied => Some("only root may listen on a port below 1024"),
            _ => None,
        };
        let error = anyhow::Error::new(error);
        match remedy {
            Some(remedy) => error.context(remedy),
            None => error,
        }
    })
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // `[::]` is IPv4 too, whatever the host's default.
        socket.set_only_v6(false)?;
    }
    // A restart does not wait for connections of the daemon before it to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_tcp_user_timeout(Some(SEND_TIMEOUT))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::metrics::fixture;

    #[tokio::test]
    async fn any_address_is_reached_over_ipv4_and_ipv6() {
        let listeners = bind(&fixture::config(&["--web.listen-address=:0"]))
            .await
            .unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if listeners[0].local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_what_to_do() {
        let first = bind(&fixture::config(&["--web.listen-address=127.0.0.1:0"]))
            .await
            .unwrap();
        let address = first[0].local_addr().unwrap();
        let flag = format!("--web.listen-address={address}");
        let error = format!("{:#}", bind(&fixture::config(&[&flag])).await.unwrap_err());
        assert!(
            error.starts_with(&format!(
                "listen on {address} (--web.listen-address): another process"
            )),
            "{error}"
        );
        assert!(error.contains("in use"), "{error}");
    }

    #[tokio::test]
    async fn a_foreign_address_is_refused() {
        let config = fixture::config(&["--web.listen-address=192.0.2.1:10048"]);
        let error = format!("{:#}", bind(&config).await.unwrap_err());
        assert!(
            error.contains("192.0.2.1:10048") && error.contains("no address of this host"),
            "{error}"
        );
    }
}
