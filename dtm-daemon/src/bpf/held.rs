//! A link as long as somebody wants what it holds attached.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use super::{pins::Pin, sys};

/// A link, which goes when this is dropped: with its name in a BPF file system, where it has one.
#[derive(Debug)]
pub(super) struct Held {
    // In the order in which they have to go.
    pin: Option<Pin>,
    fd: OwnedFd,
    /// The kernel's number for the link.
    id: u32,
}

impl Held {
    /// One that was just made.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let id = sys::object_id(fd.as_fd())?;
        Ok(Self { pin: None, fd, id })
    }

    /// One that another process has left under a name.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let (fd, pin) = Pin::open(path)?;
        let id = sys::object_id(fd.as_fd())?;
        Ok(Self {
            pin: Some(pin),
            fd,
            id,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Gives it a name, under which it stays whatever becomes of this process.
    pub(super) fn pin(&mut self, path: PathBuf) -> io::Result<()> {
        if let Some(pin) = &mut self.pin {
            return pin.rename(path);
        }
        self.pin = Some(Pin::new(self.fd.as_fd(), path)?);
        Ok(())
    }

    /// Takes its name away: it goes with this process.
    pub(super) fn unpin(&mut self) {
        self.pin = None;
    }

    /// Leaves it attached for whoever comes next, where it has a name; else it goes when this is dropped.
    pub(super) fn keep(&mut self) {
        if let Some(pin) = self.pin.take() {
            pin.keep();
        }
    }

    /// Has it hold another program; not a packet passes neither or both.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::update_link(self.fd.as_fd(), program)
    }
}

/// Takes off what a link that somebody has left holds. That it is gone already is no error.
pub fn take_off(path: PathBuf) {
    match Held::open(path) {
        Ok(link) => drop(link),
        Err(error) => tracing::debug!(%error, "a link is gone"),
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A process that panics leaves everything to the next one.
        if std::thread::panicking() {
            self.keep();
        }
        // What has a name is let go by the kernel some time after the name is.
        if self.pin.is_some()
            && let Err(error) = sys::detach_link(self.fd.as_fd())
        {
            tracing::warn!(link = self.id, %error, "cannot detach a link");
        }
    }
}
