//! Control groups of a test's own, in hierarchies that are mounted for nobody else to see.
#![expect(unsafe_code, reason = "mounts without a place have no safe wrapper")]

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
};

/// `enum fsconfig_command` of `include/uapi/linux/mount.h`.
const FSCONFIG_SET_FLAG: libc::c_long = 0;
const FSCONFIG_SET_STRING: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;

/// A hierarchy of control groups.
pub(crate) struct Hierarchy(OwnedFd);

impl Hierarchy {
    /// The machine's one of cgroup v2.
    pub(crate) fn unified() -> Self {
        Self::mount(c"cgroup2", None)
    }

    /// One of cgroup v1 that has a name and no controllers, as systemd's has.
    pub(crate) fn legacy(name: &CStr) -> Self {
        Self::mount(c"cgroup", Some(name))
    }

    fn mount(kind: &CStr, name: Option<&CStr>) -> Self {
        let system = |number: libc::c_long, words: [libc::c_long; 5]| {
            // SAFETY: the pointers among the words are strings that live through the call.
            let result = unsafe { libc::syscall(number, words[0], words[1], words[2], words[3], words[4]) };
            assert!(result >= 0, "mount {kind:?}: {}", io::Error::last_os_error());
            result
        };
        // SAFETY: whatever is handed in was just made by the kernel, for us alone.
        let own = |fd: libc::c_long| unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
        let text = |text: &CStr| text.as_ptr() as libc::c_long;
        let context = own(system(libc::SYS_fsopen, [text(kind), 1, 0, 0, 0]));
        let fd = libc::c_long::from(context.as_raw_fd());
        if let Some(name) = name {
            let words = [fd, FSCONFIG_SET_FLAG, text(c"none"), 0, 0];
            system(libc::SYS_fsconfig, words);
            let words = [fd, FSCONFIG_SET_STRING, text(c"name"), text(name), 0];
            system(libc::SYS_fsconfig, words);
        }
        system(libc::SYS_fsconfig, [fd, FSCONFIG_CMD_CREATE, 0, 0, 0]);
        Self(own(system(libc::SYS_fsmount, [fd, 1, 0, 0, 0])))
    }

    /// Its root: nobody has mounted it anywhere, but this process can name it.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/", self.0.as_raw_fd()))
    }

    /// A new group below the root, or below another if `name` says so.
    pub(crate) fn make(&self, name: &str) -> Group {
        let path = self.root().join(name);
        fs::create_dir(&path).expect("make a control group: this suite needs root");
        Group(path)
    }
}

/// A control group. Dropping it removes it, where it is still there; no process may be in it then.
pub(crate) struct Group(PathBuf);

impl Group {
    /// Its directory.
    pub(crate) fn open(&self) -> File {
        File::open(&self.0).expect("the group is there")
    }

    pub(crate) fn remove(&self) {
        fs::remove_dir(&self.0).expect("the group is there and nobody is in it");
    }

    /// Does `work` with this process in the group. Sockets made meanwhile stay the group's.
    pub(crate) fn hold<T>(&self, hierarchy: &Hierarchy, work: impl FnOnce() -> T) -> T {
        let groups = fs::read_to_string("/proc/self/cgroup").expect("proc is mounted");
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = hierarchy.root().join(own.expect("every process has a group"));
        let enter = |group: PathBuf| fs::write(group.join("cgroup.procs"), "0").expect("enter a group");
        enter(self.0.clone());
        let result = work();
        enter(own);
        result
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Removed by the test already, or the test failed with it in use.
        let _gone = fs::remove_dir(&self.0);
    }
}

/// The name of a group that is this test's alone.
pub(crate) fn own_name(test: &str) -> String {
    format!("dtm-packets-{test}-{}", std::process::id())
}
