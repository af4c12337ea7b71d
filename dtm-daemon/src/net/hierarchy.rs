//! The host's cgroup v2 hierarchy.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::container_ids;

/// Inode of the cgroup namespace that the kernel starts with: `PROC_CGROUP_INIT_INO` of its `proc_ns.h`.
const HOSTS_NAMESPACE: u64 = 0xEFFF_FFFB;

/// How deep below the root containers' groups are looked for. Docker's are at most at the fourth level, unless somebody
/// chose a parent for them.
const DEPTH: usize = 8;

/// The whole hierarchy, mounted for dtm alone and attached to no directory: where the host has mounted it, whether it is
/// mounted in dtm's own container, and what that container is shown of it does not matter.
#[derive(Debug)]
pub struct Hierarchy {
    root: OwnedFd,
    is_hosts: bool,
}

impl Hierarchy {
    /// Mounts it as the host sees it: from the host's own cgroup namespace, which is entered through the first process of
    /// `procfs` where dtm has another. Where that cannot be, it is what dtm's own namespace shows, and a warning says so.
    ///
    /// # Errors
    ///
    /// `ENODEV` where the kernel has no cgroup v2, `ENOSYS` before Linux 5.2, `EPERM` without `CAP_SYS_ADMIN`.
    ///
    /// # Minimum kernel version
    ///
    /// 5.2 (`fsopen`, `fsmount`).
    pub fn open(procfs: &Path) -> io::Result<Self> {
        let procfs = procfs.to_owned();
        // What a mount shows as its root is the mounting thread's own namespace's.
        let thread = thread::Builder::new()
            .name("dtm-cgroups".to_owned())
            .spawn(move || {
                let entered = enter_hosts_namespace(&procfs);
                if let Err(error) = &entered {
                    tracing::warn!(
                        %error,
                        "dtm is in a cgroup namespace of its own and cannot leave it: containers on the host's network \
                         are not found; start it with --cgroupns host, or --pid host and --privileged"
                    );
                }
                mount().map(|root| (root, entered.is_ok()))
            })?;
        let (root, is_hosts) = thread
            .join()
            .map_err(|_panicked| io::Error::other("the thread that mounts cgroup v2 panicked"))??;
        Ok(Self { root, is_hosts })
    }

    /// Whether it is the host's, and not only what dtm's own cgroup namespace shows of it.
    pub fn is_hosts(&self) -> bool {
        self.is_hosts
    }

    /// The root's directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A group's directory, by its path from the root.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such group.
    pub fn group(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&self.root, path, flags, Mode::empty())?)
    }

    /// Every group that is a container's, by its path; not those inside of one.
    pub fn containers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(self.root.as_fd(), Path::new("/"), DEPTH, &mut found);
        found
    }
}

/// Moves the calling thread into the host's cgroup namespace, if it is not there already.
fn enter_hosts_namespace(procfs: &Path) -> io::Result<()> {
    let own = fs::metadata("/proc/thread-self/ns/cgroup")?;
    if own.ino() == HOSTS_NAMESPACE {
        return Ok(());
    }
    let of = |process: &str| fs::File::open(procfs.join(process).join("ns/cgroup"));
    // Some machines let nobody look at their first process. The second is the first kernel thread, which is nowhere else.
    let hosts = of("1").or_else(|error| of("2").map_err(|_none| error))?;
    Ok(move_into_link_name_space(
        hosts.as_fd(),
        Some(LinkNameSpaceType::ControlGroup),
    )?)
}

fn mount() -> io::Result<OwnedFd> {
    let filesystem = fsopen(c"cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(filesystem.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(
        filesystem.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

fn walk(directory: BorrowedFd<'_>, path: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    for entry in entries.into_iter().flatten().flatten() {
        // One that ends meanwhile is none.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let group = path.join(entry.file_name());
        if container_of_group(&group).is_some() {
            found.push(group);
        } else if depth > 0 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if let Ok(below) = openat(directory, entry.file_name(), flags, Mode::empty()) {
                walk(below.as_fd(), &group, depth - 1, found);
            }
        }
    }
}

/// The id of the container whose group has this path; none for a group inside of a container's, and for those that are
/// no container's.
pub fn container_of_group(path: &Path) -> Option<String> {
    let path = path.to_str()?;
    let (parents, own) = path.rsplit_once('/')?;
    let ids = |path: &str| container_ids(&format!("0::{path}"));
    if !ids(parents).is_empty() {
        return None;
    }
    ids(&format!("/{own}")).pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_the_containers_whose_id_ends_its_path() {
        let id = "a".repeat(64);
        for path in [
            "/docker/ID",
            "/h1/docker/ID",
            "/system.slice/docker-ID.scope",
            "/machine.slice/libpod-ID.scope",
            "/ID",
        ] {
            let found = container_of_group(Path::new(&path.replace("ID", &id)));
            assert_eq!(found.as_deref(), Some(&*id), "{path}");
        }
        for path in [
            "/docker",
            "/docker/ID/init.scope",
            "/docker/ID/docker/ID",
            "/machine.slice/libpod-conmon-ID.scope",
            "/",
            "",
        ] {
            let found = container_of_group(Path::new(&path.replace("ID", &id)));
            assert_eq!(found, None, "{path}");
        }
    }
}
