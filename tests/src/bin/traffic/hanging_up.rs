//! Connections and who ends them.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::options::unsent;

const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// Closes the connection once the other side's kernel has everything: whatever that says from then on, no process here
/// is told.
pub(crate) fn tcp_leave(to: &str, bytes: usize) -> Result<()> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.write_all(&vec![b't'; bytes])?;
    xtask::host::eventually(TAKEN_WITHIN, "everything is acknowledged", || {
        Ok((unsent(&stream)? == 0).then_some(()))
    })
}

/// Keeps its own side of one connection open until it is ended itself.
pub(crate) fn tcp_hold(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("listen")?;
    let (mut stream, _from) = listener.accept().context("accept")?;
    drop(listener);
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    loop {
        std::thread::park();
    }
}

pub(crate) fn tcp_refused(to: &str, times: usize) -> Result<()> {
    for _ in 0..times {
        let refused = TcpStream::connect(to).err();
        let kind = refused.as_ref().map(std::io::Error::kind);
        ensure!(
            kind == Some(ErrorKind::ConnectionRefused),
            "not refused: {refused:?}"
        );
    }
    Ok(())
}
