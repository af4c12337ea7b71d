//! Which container a network namespace belongs to, by the control groups of the processes in it.
//!
//! A container's interface appears milliseconds before its process runs, and the engine tells of the container only
//! after; but the process is already in its namespace and its control group by then, waiting.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A network namespace other than dtm's own, with processes of containers in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceOwner {
    /// The namespace's inode in nsfs.
    pub inode: u64,
    /// One of its processes.
    pub pid: i32,
    /// Ids of the containers its processes belong to, a process' outermost first.
    pub containers: Vec<String>,
}

/// The host's processes, as `/proc` shows them.
#[derive(Debug)]
pub struct Processes {
    procfs: PathBuf,
    own_namespace: u64,
    /// Containers of processes already seen: a control group's file takes longer to read than the namespace's link.
    /// A process may be moved while its container is being set up, so only those with a container are kept, and only
    /// for the same namespace: a reused pid is in another.
    known: HashMap<i32, (u64, Vec<String>)>,
}

impl Processes {
    /// Prepares to read the processes of `procfs`, which must be the host's.
    ///
    /// # Errors
    ///
    /// Where dtm's own namespace cannot be read.
    pub fn new(procfs: PathBuf) -> io::Result<Self> {
        let own_namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Self {
            procfs,
            own_namespace,
            known: HashMap::new(),
        })
    }

    /// Every namespace that a container's process is in at this moment.
    ///
    /// Costs a `stat` per process of the host, and reading one small file for each process in another namespace that
    /// was not seen before. Processes that end meanwhile are left out.
    pub fn scan(&mut self) -> io::Result<Vec<NamespaceOwner>> {
        let mut owners: HashMap<u64, NamespaceOwner> = HashMap::new();
        let mut known = HashMap::with_capacity(self.known.len());
        for entry in fs::read_dir(&self.procfs)? {
            let Ok(entry) = entry else { continue };
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let Ok(metadata) = fs::metadata(namespace_path(&self.procfs, pid)) else {
                continue;
            };
            let inode = metadata.ino();
            if inode == self.own_namespace {
                continue;
            }
            let containers = match self.known.remove(&pid) {
                Some((seen, containers)) if seen == inode => containers,
                _ => match fs::read_to_string(self.procfs.join(pid.to_string()).join("cgroup")) {
                    Ok(cgroup) => container_ids(&cgroup),
                    Err(_ended) => continue,
                },
            };
            if containers.is_empty() {
                continue;
            }
            let owner = owners.entry(inode).or_insert_with(|| NamespaceOwner {
                inode,
                pid,
                containers: Vec::new(),
            });
            for container in &containers {
                if !owner.containers.contains(container) {
                    owner.containers.push(container.clone());
                }
            }
            known.insert(pid, (inode, containers));
        }
        self.known = known;
        Ok(owners.into_values().collect())
    }
}

fn namespace_path(procfs: &Path, pid: i32) -> PathBuf {
    procfs.join(pid.to_string()).join("ns/net")
}

/// The network namespace a process is in.
pub fn open_netns(procfs: &Path, pid: i32) -> io::Result<File> {
    File::open(namespace_path(procfs, pid))
}

/// Ids of the containers that a `/proc/<pid>/cgroup` names, outermost first.
///
/// Runtimes put the id at the end of a path's component: `/docker/<id>`, `/parent/<id>`, `docker-<id>.scope`,
/// `libpod-<id>.scope`. With cgroup v1 the file has a line per hierarchy; all of them name the same container.
pub fn container_ids(cgroup: &str) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for line in cgroup.lines() {
        // `hierarchy:controllers:path`
        let Some(path) = line.splitn(3, ':').nth(2) else {
            continue;
        };
        for id in path.split('/').filter_map(container_id) {
            if !ids.iter().any(|known| known == id) {
                ids.push(id.to_owned());
            }
        }
    }
    ids
}

fn container_id(component: &str) -> Option<&str> {
    let component = component.strip_suffix(".scope").unwrap_or(component);
    let id = component.rsplit_once('-').map_or(component, |(_runtime, id)| id);
    let is_hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (id.len() == 64 && id.bytes().all(is_hexadecimal)).then_some(id)
}

#[cfg(test)]
mod tests {
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
            "/machine.slice/libpod-ID.scope",
            "/../../ID",
        ] {
            let file = format!("0::{}\n", path.replace("ID", &id('a')));
            assert_eq!(container_ids(&file), [id('a')], "{path}");
        }
    }

    #[test]
    fn a_nested_container_comes_after_the_one_it_is_in() {
        let file = format!("0::/docker/{}/docker/{}\n", id('a'), id('b'));
        assert_eq!(container_ids(&file), [id('a'), id('b')]);
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
        for path in [
            "/",
            "/user.slice",
            &format!("/docker/{}", &id('a')[1..]),
            &format!("/{}", id('g')),
            &format!("/{}", id('A')),
        ] {
            assert_eq!(
                container_ids(&format!("0::{path}\n")),
                Vec::<String>::new(),
                "{path}"
            );
        }
        assert_eq!(container_ids("garbage"), Vec::<String>::new());
    }
}
