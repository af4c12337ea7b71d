//! Where each running container is counted, by the daemon's own choice.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use super::{
    docker::Engine,
    table::{Finding, Verdict},
};
use crate::{
    config::HostConfig,
    docker::{Container, ContainerId, Network, Survey},
    net::{
        Hierarchy, LinkKind, Processes, Requests, container_of_group, dump, hidden_network, mounted_netns,
    },
    tracker::placing::{
        HOST_NETWORK, Hook, NO_GROUP, NO_HIERARCHY, Place, Sight, advice, has_own_devices, hook, is_hidden,
        place, uncovered, uncovered_on,
    },
};

/// What of the engine's containers can be seen from here.
#[derive(Debug, Default)]
pub(super) struct Sights {
    is_rootless: bool,
    /// The bridges of dtm's own network namespace; none where the engine does not tell its bridges' names.
    bridges: Option<HashSet<Arc<str>>>,
    /// The containers with a control group; none where there is no hierarchy.
    groups: Option<HashSet<String>>,
    /// The containers with a process in procfs.
    processes: HashSet<String>,
    namespaces: Namespaces,
    /// Why there are none.
    unreadable: Option<io::ErrorKind>,
}

/// The directory of the engine's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Namespaces {
    /// Namespaces in it.
    pub(super) mounted: usize,
    /// Names on which nothing is mounted.
    pub(super) files: usize,
    /// The beginnings of the ids of hidden networks.
    hidden: Vec<String>,
}

impl Namespaces {
    fn look(directory: &Path) -> io::Result<Self> {
        let mut namespaces = Self::default();
        for entry in fs::read_dir(directory)?.flatten() {
            if mounted_netns(&entry.path()).is_err() {
                namespaces.files += 1;
                continue;
            }
            namespaces.mounted += 1;
            let name = entry.file_name().to_string_lossy().into_owned();
            namespaces.hidden.extend(hidden_network(&name).map(str::to_owned));
        }
        Ok(namespaces)
    }
}

impl Sights {
    pub(super) fn look(config: &HostConfig, engine: &Engine, hierarchy: Option<&Hierarchy>) -> Self {
        let of_groups = |hierarchy: &Hierarchy| {
            let paths = hierarchy.containers();
            paths.iter().filter_map(|path| container_of_group(path)).collect()
        };
        let namespaces = Namespaces::look(&config.paths.docker_netns);
        Self {
            is_rootless: engine.about().rootless,
            bridges: (!engine.is_podman()).then(|| bridges().unwrap_or_default()),
            groups: hierarchy.map(of_groups),
            processes: processes(&config.paths.procfs).unwrap_or_default(),
            unreadable: namespaces.as_ref().err().map(io::Error::kind),
            namespaces: namespaces.unwrap_or_default(),
        }
    }

    pub(super) fn has_bridge(&self, name: &str) -> bool {
        let bridges = self.bridges.as_ref();
        bridges.is_none_or(|bridges| bridges.contains(name))
    }

    pub(super) fn has_process(&self, id: &ContainerId) -> bool {
        self.processes.contains(id.full())
    }

    pub(super) fn namespaces(&self) -> Result<&Namespaces, io::ErrorKind> {
        match self.unreadable {
            None => Ok(&self.namespaces),
            Some(error) => Err(error),
        }
    }
}

#[cfg(test)]
impl Sights {
    /// Every bridge, and no directory of namespaces.
    pub(super) fn without_namespaces(why: io::ErrorKind) -> Self {
        Self {
            unreadable: Some(why),
            ..Self::default()
        }
    }
}

fn bridges() -> anyhow::Result<HashSet<Arc<str>>> {
    let links = dump(&mut Requests::open()?)?;
    let bridges = links.into_iter().filter(|link| link.kind == LinkKind::Bridge);
    Ok(bridges.map(|link| link.name).collect())
}

fn processes(procfs: &Path) -> io::Result<HashSet<String>> {
    let namespaces = Processes::new(procfs.to_owned())?.scan(|_pid, _inode| ())?;
    Ok(namespaces
        .into_iter()
        .flat_map(|namespace| namespace.containers)
        .collect())
}

/// The places of one container, as they are seen from here.
struct Seen<'a> {
    sights: &'a Sights,
    container: &'a Container,
}

impl Sight for Seen<'_> {
    fn is_rootless(&self) -> bool {
        self.sights.is_rootless
    }

    fn has_bridge(&self, name: &str) -> bool {
        self.sights.has_bridge(name)
    }

    fn group(&self) -> Option<&'static str> {
        match &self.sights.groups {
            None => Some(NO_HIERARCHY),
            Some(groups) if !groups.contains(self.container.id.full()) => Some(NO_GROUP),
            Some(_) => None,
        }
    }

    fn is_counted_on(&self, network: &Network) -> bool {
        if is_hidden(network) {
            let mut hidden = self.sights.namespaces.hidden.iter();
            hidden.any(|beginning| network.id.starts_with(beginning))
        } else {
            has_own_devices(network) && self.sights.has_process(&self.container.id)
        }
    }
}

/// A line for each running container and each of its networks, by name.
pub(super) fn findings(survey: &Survey, sights: &Sights) -> Vec<Finding> {
    let by_id = |network: &Network| (Arc::clone(&network.id), network.clone());
    let networks: HashMap<_, _> = survey.networks.iter().map(by_id).collect();
    let by_id = |container: &Arc<Container>| (container.id.clone(), Arc::clone(container));
    let containers: HashMap<_, _> = survey.containers.iter().map(by_id).collect();
    let mut running: Vec<_> = containers
        .values()
        .filter(|container| container.has_process())
        .collect();
    running.sort_by_key(|container| (Arc::clone(&container.name), container.id.clone()));
    let find = |id: &ContainerId| containers.get(id);
    let mut findings = Vec::new();
    for container in running {
        let seen = Seen { sights, container };
        let line = |network: &str, driver: &str, found: &str, reason: Option<&'static str>| {
            line(&container.name, network, driver, found, reason)
        };
        let Some(place) = place(container, &networks, find) else {
            let found = match container.network_mode.strip_prefix("container:") {
                Some(_) => "nothing to count: what it joined is gone",
                None => "not known: the engine does not say",
            };
            findings.push(line("-", "-", found, None));
            continue;
        };
        match &place {
            Place::Group => {
                let reason = uncovered(&place, &seen);
                findings.push(line(HOST_NETWORK, HOST_NETWORK, word(Some(Hook::Cgroup)), reason));
            }
            Place::Under(other) => {
                let name = find(other).map_or(other.short(), |other| &other.name);
                findings.push(line("-", "-", &format!("under {name}"), None));
            }
            Place::On(networks) if networks.is_empty() => {
                findings.push(line("none", "null", "nothing to count", None));
            }
            Place::On(networks) => findings.extend(networks.iter().map(|network| {
                let found = word(hook(&network.driver));
                let reason = uncovered_on(network, &seen);
                line(&network.name, &network.driver, found, reason)
            })),
        }
    }
    findings
}

/// What the table calls it.
fn word(hook: Option<Hook>) -> &'static str {
    match hook {
        Some(Hook::HostEnd) => "host end",
        Some(Hook::OwnDevice) => "own device",
        Some(Hook::Cgroup) => "cgroup",
        Some(Hook::Bridge) => "bridge",
        None => "nowhere",
    }
}

fn line(container: &str, network: &str, driver: &str, found: &str, reason: Option<&'static str>) -> Finding {
    let found = reason.map_or_else(|| found.to_owned(), |reason| format!("not counted: {reason}"));
    let cells = [container, network, driver, &found].map(str::to_owned);
    let finding = Finding::row(cells.to_vec());
    match reason {
        Some(reason) => finding.but(Verdict::Missing, advice(reason)),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::table::Report,
        docker::{
            ContainerState,
            fixture::{self, network},
        },
    };

    fn id(digit: char) -> String {
        fixture::id(digit).full().to_owned()
    }

    fn container(digit: char, name: &str, mode: &str, networks: &[&str]) -> Container {
        Container {
            name: Arc::from(name),
            ..fixture::container(digit, mode, networks)
        }
    }

    fn survey() -> Survey {
        let mut stopped = container('8', "stopped", "front", &["front"]);
        stopped.state = ContainerState::Exited;
        Survey {
            name: "Docker Engine".to_owned(),
            is_podman: false,
            version: Arc::from("29.0.0"),
            api_version: "1.52".to_owned(),
            about: None,
            containers: [
                container('0', "web", "front", &["front", "lan"]),
                container('1', "proxy", "host", &[]),
                container('2', "alone", "none", &["none"]),
                container('3', "sidecar", &format!("container:{}", id('0')), &[]),
                container('4', "beside-the-proxy", &format!("container:{}", id('1')), &[]),
                container('5', "orphan", &format!("container:{}", id('9')), &[]),
                container('6', "task", "mesh", &["mesh"]),
                container('7', "odd", "odd", &["odd"]),
                stopped,
            ]
            .map(Arc::new)
            .into(),
            networks: vec![
                network("front", "bridge", Some("br-front")),
                network("lan", "macvlan", None),
                network("mesh", "overlay", None),
                network("odd", "weave", None),
                network("host", "host", None),
                network("none", "null", None),
            ],
        }
    }

    fn report(sights: &Sights) -> String {
        let mut report = Report::new("dtm".to_owned());
        report.add("Containers", findings(&survey(), sights));
        report.to_string()
    }

    #[test]
    fn every_container_has_its_place() {
        let sights = Sights {
            bridges: Some([Arc::from("br-front")].into()),
            groups: Some([id('1'), id('4')].into()),
            processes: [id('0')].into(),
            namespaces: Namespaces {
                hidden: vec!["mes".to_owned()],
                ..Namespaces::default()
            },
            ..Sights::default()
        };
        insta::assert_snapshot!("places", report(&sights));
    }

    #[test]
    fn from_a_container_that_is_shut_in_nothing_can_be_counted() {
        let sights = Sights {
            bridges: Some(HashSet::new()),
            ..Sights::default()
        };
        insta::assert_snapshot!("shut_in", report(&sights));
    }

    #[test]
    fn of_a_rootless_engine_only_groups_are_in_sight() {
        let sights = Sights {
            is_rootless: true,
            bridges: Some([Arc::from("br-front")].into()),
            groups: Some([id('1')].into()),
            ..Sights::default()
        };
        insta::assert_snapshot!("rootless", report(&sights));
    }
}
