//! A port of this host that leads into a namespace.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, bail};
use xtask::host::Network;

/// How many ports to try, beginning with the wanted one.
const PORTS: u16 = 50;

/// Listens on this host's loopback, on threads alone: no interface, route or rule, nothing that could stay.
pub(super) struct Forwarder {
    address: SocketAddr,
}

impl Forwarder {
    /// Leads the same port, or the next free one, to `inside` in `network`.
    pub(super) fn start(network: Network, inside: SocketAddr) -> Result<Self> {
        let listener = listen(inside.port())?;
        let address = listener.local_addr().context("read the listener's address")?;
        let network = Arc::new(network);
        thread::spawn(move || {
            for outer in listener.incoming().flatten() {
                let network = Arc::clone(&network);
                thread::spawn(move || {
                    // Where nobody listens inside, the caller sees its connection end.
                    if let Ok(inner) = network.connect(inside) {
                        join(&outer, &inner);
                    }
                });
            }
        });
        Ok(Self { address })
    }

    /// What a browser on this host opens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn listen(first: u16) -> Result<TcpListener> {
    for port in first..first.saturating_add(PORTS) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(|| format!("listen on port {port}")),
        }
    }
    bail!("the {PORTS} ports from {first} on are all taken")
}

/// Copies both ways until both have ended.
fn join(outer: &TcpStream, inner: &TcpStream) {
    thread::scope(|scope| {
        scope.spawn(|| copy(outer, inner));
        copy(inner, outer);
    });
}

/// A broken connection ends for both sides, as it would without the forwarder.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
}
