//! One dtm in a network namespace: a second would count everything again, and with clsact take the first one's place.
//!
//! Whoever listens on an abstract unix socket is the one. Such a name belongs to the network namespace, is seen by every
//! container that shares it, and the kernel frees it however its holder ends. Anybody may connect; all they learn is who
//! holds it, by the kernel's word (`SO_PEERCRED`), and nothing is ever read or written.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, net::UnixListener as StdUnixListener},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{net::UnixListener, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// The socket's name, after the zero byte that makes it abstract.
const NAME: &str = "\0dtm-one-per-network-namespace";

/// How long another dtm that is about to end is waited for, as at a restart that starts the new before the old is gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often it is tried meanwhile.
const RETRY: Duration = Duration::from_millis(50);

/// How many who ask may wait to be let go; it costs their connections nothing.
const BACKLOG: i32 = 128;

/// The right to be the one dtm of this network namespace, until it is dropped.
#[derive(Debug)]
pub struct Single {
    /// Holds the listening socket.
    _answering: AbortOnDropHandle<()>,
}

impl Single {
    /// Takes the right, waiting a moment for one who is about to let it go.
    ///
    /// # Errors
    ///
    /// Where another process holds it: the error says which, as `procfs` knows it.
    ///
    /// # Panics
    ///
    /// Outside the runtime, which the socket belongs to.
    pub async fn claim(procfs: &Path) -> anyhow::Result<Self> {
        let address = SockAddr::unix(OsStr::from_bytes(NAME.as_bytes())).context("name a socket")?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            match listen(&address) {
                Ok(listener) => return Self::answer(listener).context("listen for another dtm"),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).context("listen for another dtm"),
            }
            if Instant::now() >= give_up {
                let holder = holder(&address, procfs);
                bail!("{holder} runs in this network namespace already, and one is enough: stop it first");
            }
            tracing::debug!("waiting for another dtm to end");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Lets go whoever asks: their connections would fill the queue, and the next could not be told who is here.
    fn answer(listener: StdUnixListener) -> io::Result<Self> {
        let listener = UnixListener::from_std(listener)?;
        let answering = tokio::spawn(async move {
            loop {
                if let Err(error) = listener.accept().await {
                    tracing::debug!(%error, "cannot let another dtm go");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        });
        Ok(Self {
            _answering: AbortOnDropHandle::new(answering),
        })
    }
}

fn listen(address: &SockAddr) -> io::Result<StdUnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Who is in the way, as far as the kernel tells.
#[derive(Debug)]
struct Holder {
    /// None in a process-id namespace that is out of sight.
    process: Option<u32>,
    user: Option<u32>,
    /// What the process calls itself.
    name: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, user, name } = self;
        match process {
            Some(process) => write!(f, "another dtm (process {process}")?,
            None => write!(f, "another dtm (a process that cannot be seen from here")?,
        }
        // Anybody can take the name: who it is should not be guessed.
        if let Some(name) = name.as_ref().filter(|name| *name != "dtm") {
            write!(f, ", which is called {name:?}")?;
        }
        if let Some(user) = user.filter(|user| *user != 0) {
            write!(f, ", of the user {user}")?;
        }
        f.write_str(")")
    }
}

/// Asks the kernel who listens. It never waits: a holder that lets nobody go is as good an answer.
fn holder(address: &SockAddr, procfs: &Path) -> Holder {
    let credentials = connect(address).and_then(|socket| peer_credentials(&socket));
    let credentials = credentials
        .inspect_err(|error| tracing::debug!(%error, "cannot ask who the other dtm is"))
        .ok();
    let process = credentials
        .and_then(|credentials| u32::try_from(credentials.pid).ok())
        .filter(|process| *process != 0);
    let name = |process| {
        let comm: PathBuf = procfs.join(format!("{process}/comm"));
        let name = fs::read(comm).ok()?;
        Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
    };
    Holder {
        process,
        user: credentials.map(|credentials| credentials.uid),
        name: process.and_then(name),
    }
}

fn connect(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    Ok(socket)
}

/// Who began to listen at the other end.
fn peer_credentials(socket: &Socket) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "SO_PEERCRED has no wrapper")]
    // SAFETY: the credentials and their size live through the call, and the size is theirs.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut credentials).cast(),
            &raw mut size,
        )
    };
    if result == 0 {
        Ok(credentials)
    } else {
        Err(io::Error::last_os_error())
    }
}
