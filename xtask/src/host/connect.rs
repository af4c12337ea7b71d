//! Work of this process's own threads and children inside the host's network.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Host, run};

const CONNECT: Duration = Duration::from_secs(5);

/// A host's network namespace, for as long as this is held.
#[derive(Debug)]
pub struct Network(File);

impl Network {
    /// The network namespace of a running process.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn of_process(id: u32) -> Result<Self> {
        Self::at(Path::new(&format!("/proc/{id}/ns/net")))
    }

    fn at(path: &Path) -> Result<Self> {
        File::open(path)
            .map(Self)
            .with_context(|| format!("open {}", path.display()))
    }

    /// Does `work` on a thread inside the network. Sockets opened there stay in it.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        // A thread of its own: one that failed to return to its namespace would poison all later work.
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("enter the network namespace")
                    .map(|()| work())
            });
            match entered.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a program of this machine's in the network, to its end, and gives its standard output. Only the network is
    /// another: what it finds in `/sys` is this machine's.
    ///
    /// # Errors
    ///
    /// With its standard error, when it fails.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = Command::new(program);
        command.args(arguments);
        self.enter(|| run(&mut command))?
    }

    /// A connection from inside the network.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        let connected = self.enter(|| TcpStream::connect_timeout(&address, CONNECT))?;
        connected.with_context(|| format!("connect to {address}"))
    }
}

impl Host {
    /// The host's network, as a handle that threads can take along.
    pub fn network(&self) -> Result<Network> {
        Network::of_process(self.holder)
    }

    /// The network namespace that is mounted at `path` in the host, such as one of its engine's.
    pub fn network_at(&self, path: &str) -> Result<Network> {
        Network::at(&self.outside(path))
    }
}
