//! Which container a network namespace belongs to, by the control groups of the processes in it.
//!
//! A container's interface appears milliseconds before its process runs, and the engine tells of the container only
//! after; but the process is already in its namespace and its control group by then, waiting.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{fd::BorrowedFd, unix::fs::DirEntryExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// After this long a process has found its container and namespace: a runtime takes less to set one up.
const SETTLED: Duration = Duration::from_secs(10);

/// A network namespace other than dtm's own, with processes of containers or of builds in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceOwner {
    /// The namespace's inode in nsfs.
    pub inode: u64,
    /// One of its processes.
    pub pid: i32,
    /// Ids of the containers its processes belong to, a process' outermost first.
    pub containers: Vec<String>,
    /// Whether all its processes are steps of `BuildKit` builds.
    pub is_build: bool,
}

/// The host's processes, as `/proc` shows them.
#[derive(Debug)]
pub struct Processes {
    procfs: PathBuf,
    own_namespace: u64,
    known: HashMap<i32, Known>,
}

/// A process that was seen before.
#[derive(Debug)]
struct Known {
    /// The inode of its directory in procfs: a process that was given the same id has another.
    process: u64,
    namespace: u64,
    /// Empty where it belongs to none, or is still on its way into one.
    containers: Vec<String>,
    is_build: bool,
    since: Instant,
}

impl Known {
    fn is_anybodys(&self) -> bool {
        self.is_build || !self.containers.is_empty()
    }
}

impl Processes {
    /// Prepares to read the processes of `procfs`, which must be the host's.
    ///
    /// # Errors
    ///
    /// Where dtm's own namespace cannot be read.
    pub fn new(procfs: PathBuf) -> io::Result<Self> {
        let own_namespace = namespace(Path::new("/proc/thread-self/ns/net"))?;
        Ok(Self {
            procfs,
            own_namespace,
            known: HashMap::new(),
        })
    }

    /// Every namespace that a container's process is in at this moment. Tells `seen` of each such process at once, by
    /// its id and its namespace's inode: it may end before the scan does.
    ///
    /// Costs listing the processes, reading a link for each that has not settled, and a small file for each in another
    /// namespace that was not seen there before. The newest come first. Processes that end meanwhile are left out.
    pub fn scan(&mut self, mut seen: impl FnMut(i32, u64)) -> io::Result<Vec<NamespaceOwner>> {
        let mut processes = Vec::with_capacity(self.known.len());
        for entry in fs::read_dir(&self.procfs)? {
            let Ok(entry) = entry else { continue };
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            processes.extend(pid.map(|pid: i32| (pid, entry.ino())));
        }
        processes.sort_unstable_by_key(|(pid, _process)| std::cmp::Reverse(*pid));
        let mut owners: HashMap<u64, NamespaceOwner> = HashMap::new();
        let mut known = HashMap::with_capacity(processes.len());
        for (pid, process) in processes {
            let before = self.known.remove(&pid).filter(|seen| seen.process == process);
            let Some(now) = self.look(pid, process, before) else {
                continue;
            };
            if now.is_anybodys() {
                seen(pid, now.namespace);
                let owner = owners.entry(now.namespace).or_insert_with(|| NamespaceOwner {
                    inode: now.namespace,
                    pid,
                    containers: Vec::new(),
                    is_build: true,
                });
                owner.is_build &= now.is_build;
                add(&mut owner.containers, &now.containers);
            }
            known.insert(pid, now);
        }
        self.known = known;
        Ok(owners.into_values().collect())
    }

    /// What is known of a process now, where it is still there.
    fn look(&self, pid: i32, process: u64, seen: Option<Known>) -> Option<Known> {
        let seen = match seen {
            Some(seen) if seen.since.elapsed() >= SETTLED => return Some(seen),
            seen => seen,
        };
        let directory = self.procfs.join(pid.to_string());
        let namespace = namespace(&directory.join("ns/net")).ok()?;
        let is_same = |seen: &Known| seen.namespace == namespace;
        let (containers, is_build) = match &seen {
            // In a container of another namespace it stays there; elsewhere it may be on its way into one.
            Some(seen) if is_same(seen) && seen.is_anybodys() => (seen.containers.clone(), seen.is_build),
            _ if namespace == self.own_namespace => (Vec::new(), false),
            _ => {
                let cgroup = fs::read_to_string(directory.join("cgroup")).ok()?;
                (container_ids(&cgroup), is_build(&cgroup))
            }
        };
        let since = seen
            .as_ref()
            .filter(|seen| is_same(seen) && seen.containers == containers && seen.is_build == is_build);
        Some(Known {
            process,
            namespace,
            since: since.map_or_else(Instant::now, |seen| seen.since),
            containers,
            is_build,
        })
    }
}

/// The inode of the namespace behind one of the links in `/proc/<pid>/ns`.
fn namespace(link: &Path) -> io::Result<u64> {
    let target = fs::read_link(link)?;
    let inode = target
        .to_str()
        .and_then(|target| target.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
    inode.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a link to a network namespace"))
}

fn namespace_path(procfs: &Path, pid: i32) -> PathBuf {
    procfs.join(format!("{pid}/ns/net"))
}

/// The network namespace a process is in. Its inode tells whether the process is still the one that was meant.
pub fn open_netns(procfs: &Path, pid: i32) -> io::Result<File> {
    File::open(namespace_path(procfs, pid))
}

/// Moves the calling thread into another network namespace, for good: only on a thread made for it.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    let network = rustix::thread::LinkNameSpaceType::Network;
    Ok(rustix::thread::move_into_link_name_space(netns, Some(network))?)
}

/// Ids of the containers that a `/proc/<pid>/cgroup` names, outermost first.
///
/// Runtimes put the id at the end of a path's component: `/docker/<id>`, `/parent/<id>`, `docker-<id>.scope`,
/// `libpod-<id>.scope`. With cgroup v1 the file has a line for each hierarchy; the one that names most comes first.
pub fn container_ids(cgroup: &str) -> Vec<String> {
    // `hierarchy:controllers:path`
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut lines: Vec<Vec<String>> = paths
        .map(|path| {
            path.split('/')
                .filter_map(container_id)
                .map(str::to_owned)
                .collect()
        })
        .collect();
    lines.sort_by_key(|ids| std::cmp::Reverse(ids.len()));
    let mut all = Vec::new();
    for ids in lines {
        add(&mut all, &ids);
    }
    all
}

/// Whether a `/proc/<pid>/cgroup` is that of a step of a build by the engine's own `BuildKit`.
///
/// The engine puts these steps beside its containers, under ids that are no containers': `/docker/buildkit/<id>`,
/// `/parent/buildkit/<id>`; with systemd `/system.slice/docker-<id>.scope`.
fn is_build(cgroup: &str) -> bool {
    let mut paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| {
        let components: Vec<&str> = path.split('/').collect();
        components.iter().enumerate().any(|(at, component)| {
            let id = component
                .strip_prefix("docker-")
                .and_then(|rest| rest.strip_suffix(".scope"));
            let id = id.or_else(|| Some(*component).filter(|_| at > 0 && components[at - 1] == "buildkit"));
            id.is_some_and(is_build_id)
        })
    })
}

/// The ids are 128 random bits in base 36.
fn is_build_id(id: &str) -> bool {
    id.len() == 25
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

fn container_id(component: &str) -> Option<&str> {
    let component = component.strip_suffix(".scope").unwrap_or(component);
    let (runtime, id) = component.rsplit_once('-').unwrap_or(("", component));
    // Podman's monitor of a container has a group of its own beside it.
    if runtime.ends_with("conmon") {
        return None;
    }
    let is_hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (id.len() == 64 && id.bytes().all(is_hexadecimal)).then_some(id)
}

/// Adds the ids that are not there yet.
fn add(all: &mut Vec<String>, ids: &[String]) {
    for id in ids {
        if !all.contains(id) {
            all.push(id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn id(digit: char) -> String {
        String::from(digit).repeat(64)
    }

    #[test]
    fn every_runtimes_way_of_naming_a_group_is_understood() {
        for path in [
            "/docker/ID",
            "/h1/ID",
            "/system.slice/docker-ID.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope",
            "/docker/ID/init.scope",
            "/../../ID",
        ] {
            let file = format!("0::{}\n", path.replace("ID", &id('a')));
            assert_eq!(container_ids(&file), [id('a')], "{path}");
        }
    }

    #[test]
    fn a_step_of_a_build_is_no_container() {
        let step = "qc80tu40qa0aie6sg09i4714i";
        for path in [
            "/docker/buildkit/ID",
            "/h1/buildkit/ID",
            "/system.slice/docker-ID.scope",
            "/docker/buildkit/ID/nested",
        ] {
            let file = format!("9:name=systemd:/\n0::{}\n", path.replace("ID", step));
            assert!(is_build(&file), "{path}");
            assert_eq!(container_ids(&file), Vec::<String>::new(), "{path}");
        }
        for path in [
            format!("/docker/{}", id('a')),
            format!("/system.slice/docker-{}.scope", id('a')),
            format!("/docker/buildkit/{}", id('a')),
            format!("/user.slice/{step}"),
            "/docker/buildkit".to_owned(),
            "/docker/buildkit/".to_owned(),
            "/system.slice/docker-buildkit.scope".to_owned(),
        ] {
            assert!(!is_build(&format!("0::{path}\n")), "{path}");
        }
    }

    #[test]
    fn a_nested_container_comes_after_the_one_it_is_in() {
        let nested = format!("/docker/{}/docker/{}", id('a'), id('b'));
        assert_eq!(container_ids(&format!("0::{nested}\n")), [id('a'), id('b')]);
        let hybrid = format!("2:cpu:/{}\n1:name=systemd:{nested}\n0::/\n", id('b'));
        assert_eq!(container_ids(&hybrid), [id('a'), id('b')]);
    }

    #[test]
    fn the_lines_of_a_hybrid_host_name_one_container() {
        let file = format!(
            "5:pids:/docker/{0}\n1:name=systemd:/docker/{0}\n0::/docker/{0}\n",
            id('c')
        );
        assert_eq!(container_ids(&file), [id('c')]);
    }

    #[test]
    fn what_only_looks_like_an_id_is_none() {
        let (short, letter, upper) = (&id('a')[1..], id('g'), id('A'));
        for path in [
            "/",
            "/user.slice",
            short,
            &letter,
            &upper,
            &format!("{}0", id('a')),
        ] {
            let file = format!("0::/docker/{path}\n");
            assert_eq!(container_ids(&file), Vec::<String>::new(), "{path}");
        }
        for garbage in ["", "garbage", "0:", "::", "\n\n:::"] {
            assert_eq!(container_ids(garbage), Vec::<String>::new(), "{garbage}");
        }
    }

    #[test]
    fn a_link_and_an_open_namespace_have_the_same_inode() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let procfs = Path::new("/proc");
        let open = open_netns(procfs, pid).unwrap().metadata().unwrap().ino();
        assert_eq!(namespace(&namespace_path(procfs, pid)).unwrap(), open);
    }

    #[test]
    fn processes_of_the_own_namespace_are_nobodys() {
        let mut processes = Processes::new(PathBuf::from("/proc")).unwrap();
        let own = processes.own_namespace;
        let owners = processes.scan(|_pid, _namespace| ()).unwrap();
        assert!(owners.iter().all(|owner| owner.inode != own));
    }

    /// A procfs of plain files: what decides is the links and the control groups, and those can be had anywhere.
    struct Procfs(PathBuf);

    impl Procfs {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dtm-processes-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn process(&self, pid: i32, namespace: u64, cgroup: &str) {
            let directory = self.0.join(pid.to_string());
            fs::create_dir_all(directory.join("ns")).unwrap();
            std::os::unix::fs::symlink(format!("net:[{namespace}]"), directory.join("ns/net")).unwrap();
            fs::write(directory.join("cgroup"), cgroup).unwrap();
        }

        fn end(&self, pid: i32) {
            fs::rename(self.0.join(pid.to_string()), self.0.join(format!("ended-{pid}"))).unwrap();
        }
    }

    impl Drop for Procfs {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_shared_namespace_names_all_its_containers() {
        let procfs = Procfs::new("shared");
        procfs.process(10, 7, &format!("0::/docker/{}\n", id('a')));
        procfs.process(11, 7, &format!("0::/docker/{}\n", id('b')));
        procfs.process(12, 8, "0::/user.slice\n");
        let mut owners = Processes::new(procfs.0.clone())
            .unwrap()
            .scan(|_pid, _namespace| ())
            .unwrap();
        let mut owner = owners.pop().unwrap();
        owner.containers.sort();
        assert_eq!((owner.inode, owner.containers), (7, vec![id('a'), id('b')]));
        assert!(owners.is_empty(), "a namespace without containers is nobody's");
    }

    #[test]
    fn a_namespace_is_a_builds_when_all_its_processes_are() {
        let procfs = Procfs::new("builds");
        let step = "0::/docker/buildkit/qc80tu40qa0aie6sg09i4714i\n";
        procfs.process(10, 7, step);
        procfs.process(11, 8, step);
        procfs.process(12, 8, &format!("0::/docker/{}\n", id('a')));
        let mut processes = Processes::new(procfs.0.clone()).unwrap();
        let mut seen = Vec::new();
        let mut owners = processes
            .scan(|pid, namespace| seen.push((pid, namespace)))
            .unwrap();
        owners.sort_by_key(|owner| owner.inode);
        let is_build: Vec<_> = owners.iter().map(|owner| (owner.inode, owner.is_build)).collect();
        assert_eq!(is_build, [(7, true), (8, false)]);
        assert_eq!(seen, [(12, 8), (11, 8), (10, 7)], "the newest come first");
    }

    #[test]
    fn a_process_that_has_settled_outside_is_not_looked_at_again() {
        let procfs = Procfs::new("outside");
        let mut processes = Processes::new(procfs.0.clone()).unwrap();
        procfs.process(10, processes.own_namespace, "0::/\n");
        assert_eq!(processes.scan(|_, _| ()).unwrap(), []);
        fs::remove_file(procfs.0.join("10/ns/net")).unwrap();
        std::os::unix::fs::symlink("net:[8]", procfs.0.join("10/ns/net")).unwrap();
        fs::write(procfs.0.join("10/cgroup"), format!("0::/docker/{}\n", id('a'))).unwrap();
        processes.known.get_mut(&10).unwrap().since -= SETTLED;
        assert_eq!(processes.scan(|_, _| ()).unwrap(), []);
        processes.known.get_mut(&10).unwrap().since += SETTLED;
        assert_eq!(
            processes.scan(|_, _| ()).unwrap()[0].inode,
            8,
            "a young one may still be moved"
        );
    }

    #[test]
    fn a_process_with_a_reused_id_is_not_taken_for_the_one_before() {
        let procfs = Procfs::new("reused");
        let mut processes = Processes::new(procfs.0.clone()).unwrap();
        procfs.process(10, 7, &format!("0::/docker/{}\n", id('a')));
        assert_eq!(
            processes.scan(|_pid, _namespace| ()).unwrap()[0].containers,
            [id('a')]
        );
        procfs.end(10);
        procfs.process(10, 7, &format!("0::/docker/{}\n", id('b')));
        assert_eq!(
            processes.scan(|_pid, _namespace| ()).unwrap()[0].containers,
            [id('b')]
        );
    }

    #[test]
    fn a_process_that_has_settled_is_not_looked_at_again() {
        let procfs = Procfs::new("settled");
        let mut processes = Processes::new(procfs.0.clone()).unwrap();
        procfs.process(10, 7, &format!("0::/docker/{}\n", id('a')));
        assert_eq!(processes.scan(|_pid, _namespace| ()).unwrap()[0].inode, 7);
        fs::remove_file(procfs.0.join("10/ns/net")).unwrap();
        std::os::unix::fs::symlink("net:[8]", procfs.0.join("10/ns/net")).unwrap();
        assert_eq!(
            processes.scan(|_pid, _namespace| ()).unwrap()[0].inode,
            8,
            "a young one may still be moved"
        );
        processes.known.get_mut(&10).unwrap().since -= SETTLED;
        fs::remove_file(procfs.0.join("10/ns/net")).unwrap();
        assert_eq!(processes.scan(|_pid, _namespace| ()).unwrap()[0].inode, 8);
        procfs.end(10);
        assert_eq!(processes.scan(|_pid, _namespace| ()).unwrap(), []);
    }

    #[test]
    fn a_process_on_its_way_into_a_container_is_looked_at_again() {
        let procfs = Procfs::new("moved");
        let mut processes = Processes::new(procfs.0.clone()).unwrap();
        procfs.process(10, 7, "0::/\n");
        assert_eq!(processes.scan(|_pid, _namespace| ()).unwrap(), []);
        fs::write(procfs.0.join("10/cgroup"), format!("0::/docker/{}\n", id('a'))).unwrap();
        assert_eq!(
            processes.scan(|_pid, _namespace| ()).unwrap()[0].containers,
            [id('a')]
        );
    }
}
