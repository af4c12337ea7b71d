//! The line between dtm and the engine, which a test can cut.

use std::{
    fs, io,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use dtm_tests::scene::Scene;

/// A socket that leads to the engine's.
#[derive(Debug)]
pub(crate) struct Line {
    socket: PathBuf,
    engine: PathBuf,
    open: Option<Arc<Open>>,
}

/// The line while it is not cut.
#[derive(Debug, Default)]
struct Open {
    is_cut: AtomicBool,
    ends: Mutex<Vec<UnixStream>>,
}

impl Line {
    /// Lays one to the scene's engine.
    pub(crate) fn lay(scene: &Scene) -> Result<Self> {
        let mut line = Self {
            socket: scene.host().directory().join("line.sock"),
            engine: scene.engine.socket_outside(),
            open: None,
        };
        line.mend()?;
        Ok(line)
    }

    /// What dtm is to be told.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Lets nobody through any more.
    pub(crate) fn cut(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        open.is_cut.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for callers.
        UnixStream::connect(&self.socket).context("call for the last time")?;
        fs::remove_file(&self.socket).context("remove the socket")?;
        for end in open.ends.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One whose other end has gone is closed already.
            drop(end.shutdown(std::net::Shutdown::Both));
        }
        Ok(())
    }

    /// Lets everybody through again.
    pub(crate) fn mend(&mut self) -> Result<()> {
        let listener = UnixListener::bind(&self.socket).context("listen for dtm")?;
        let open = Arc::new(Open::default());
        self.open = Some(Arc::clone(&open));
        let engine = self.engine.clone();
        thread::spawn(move || {
            for dtm_end in listener.incoming() {
                if open.is_cut.load(Ordering::Relaxed) {
                    return;
                }
                // One that cannot be put through is hung up on.
                drop(dtm_end.and_then(|dtm_end| open.put_through(&dtm_end, &engine)));
            }
        });
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Err(error) = self.cut() {
            eprintln!("{error:#}");
        }
    }
}

impl Open {
    fn put_through(&self, dtm_end: &UnixStream, engine: &Path) -> io::Result<()> {
        let engine_end = UnixStream::connect(engine)?;
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, to) in [(dtm_end, &engine_end), (&engine_end, dtm_end)] {
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            ends.push(from.try_clone()?);
            thread::spawn(move || {
                // Whoever hangs up ends both ways; why does not matter.
                drop(io::copy(&mut from, &mut to));
                drop(to.shutdown(std::net::Shutdown::Both));
            });
        }
        Ok(())
    }
}
