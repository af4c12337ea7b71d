//! The BPF file system that pins are in.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::{
    fs::{StatVfsMountFlags, statfs, statvfs},
    mount::{MountFlags, mount as mount_it},
};

/// What there is at a path for pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bpffs {
    /// A BPF file system.
    Mounted,
    /// None yet; one can be mounted there.
    ToMount,
    /// None, in a mount namespace that is not the host's: what is mounted there goes with that.
    InContainer,
}

impl Bpffs {
    /// Looks at `path`.
    ///
    /// # Errors
    ///
    /// Where there is no such path, or what is there is read-only (`EROFS`).
    pub fn look(path: &Path, procfs: &Path) -> io::Result<Self> {
        if is_bpffs(path)? {
            must_be_writable(path)?;
            Ok(Self::Mounted)
        } else if is_hosts_mount_namespace(procfs) {
            Ok(Self::ToMount)
        } else {
            Ok(Self::InContainer)
        }
    }

    /// Looks at `path`, and sees to it that a BPF file system is mounted there. Says what there was before.
    ///
    /// # Errors
    ///
    /// As of [`look`](Self::look), and where none can be mounted.
    pub fn mount(path: &Path, procfs: &Path) -> io::Result<Self> {
        let found = Self::look(path, procfs)?;
        if found != Self::Mounted {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount_it("bpf", path, "bpf", flags, c"mode=700")?;
            must_be_writable(path)?;
        }
        Ok(found)
    }
}

/// Whether a BPF file system is mounted at `path`.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    // `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
    Ok(statfs(path)?.f_type == 0xcafe_4a11)
}

fn must_be_writable(path: &Path) -> io::Result<()> {
    if statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(io::ErrorKind::ReadOnlyFilesystem.into());
    }
    Ok(())
}

/// Whether this process is where the host's first one is.
fn is_hosts_mount_namespace(procfs: &Path) -> bool {
    let inode = |process: &str| {
        let namespace = fs::metadata(procfs.join(process).join("ns/mnt"));
        namespace.map(|namespace| namespace.ino())
    };
    // Where the first process cannot be looked at, dtm is in a container too.
    matches!((inode("1"), inode("self")), (Ok(first), Ok(own)) if first == own)
}
