//! The engine: whether it answers, how it runs, and whether dtm is where its networks are.

use std::{fs, os::unix::fs::MetadataExt as _, sync::Arc};

use super::{
    containers::Sights,
    survey,
    table::{Finding, Verdict},
};
use crate::{
    config::HostConfig,
    docker::{About, Container, ContainerId, Survey, preflight},
    tracker::placing::{is_hidden, is_on_host},
};

/// Inode of the pid namespace that the kernel starts with: `PROC_PID_INIT_INO` of its `proc_ns.h`.
const HOSTS_PIDS: u64 = 0xEFFF_FFFC;

/// An engine that answered.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) survey: Survey,
}

impl Engine {
    /// Asks it; what is missing where it does not answer.
    pub(super) async fn look(config: &HostConfig) -> Result<Self, Finding> {
        let host = &config.docker_host;
        let asked = match preflight(host) {
            Ok(()) => survey(host).await,
            Err(refused) => Err(format!("{refused:#}")),
        };
        asked.map(|survey| Self { survey }).map_err(|error| {
            let advice = format!(
                "traffic is counted, but no container has a name: let dtm have the socket, and --docker.host ({host}) \
                 lead to it"
            );
            Finding::missing("engine", error, &advice)
        })
    }

    pub(super) fn about(&self) -> About {
        self.survey.about.unwrap_or_default()
    }

    /// Whether it is Podman, which does not tell what its bridges are called.
    pub(super) fn is_podman(&self) -> bool {
        self.survey.is_podman
    }

    pub(super) fn findings(&self, config: &HostConfig, sights: &Sights) -> Vec<Finding> {
        let mut findings = vec![self.engine(), self.users()];
        if self.about().swarm {
            findings.push(Finding::fine("swarm", "this is a node of one"));
        }
        findings.extend(self.networks(sights));
        findings.push(self.namespaces(config, sights));
        findings.extend(self.processes(config, sights));
        findings
    }

    fn engine(&self) -> Finding {
        let Survey {
            name,
            version,
            api_version,
            ..
        } = &self.survey;
        let name = match &**name {
            "" => "an engine",
            // Docker's name for its own part of itself.
            "Engine" => "Docker Engine",
            other => other,
        };
        let found = format!("{name} {version}, API {api_version}");
        if self.is_podman() {
            let advice = "by its API for Docker: whether dtm is where its bridges are cannot be told";
            Finding::note("engine", found, advice)
        } else {
            Finding::fine("engine", found)
        }
    }

    fn users(&self) -> Finding {
        match self.survey.about {
            None => Finding::note(
                "users",
                "not known",
                "the engine does not say: a proxy may refuse the question (GET /info); of a rootless engine nothing is seen",
            ),
            Some(About { rootless: true, .. }) => Finding::missing(
                "users",
                "the engine is rootless",
                "its networks are in RootlessKit's own namespace, out of dtm's sight: run containers on an engine of root's",
            ),
            Some(About {
                userns_remap: true, ..
            }) => Finding::fine(
                "users",
                "remapped (userns-remap), which changes nothing for counting",
            ),
            Some(_) => Finding::fine("users", "the engine runs as root"),
        }
    }

    /// Whether the bridges of its networks are here, where that says anything.
    fn networks(&self, sights: &Sights) -> Option<Finding> {
        if self.about().rootless || self.is_podman() {
            return None;
        }
        let bridges = self.survey.networks.iter();
        let bridges: Vec<_> = bridges.filter_map(|network| network.bridge.as_deref()).collect();
        let here = bridges.iter().filter(|bridge| sights.has_bridge(bridge)).count();
        let found = format!("{here} of {} bridges of its networks are here", bridges.len());
        match (here, bridges.len()) {
            (_, 0) => None,
            (here, all) if here == all => Some(Finding::fine("network namespace", found)),
            _ => Some(Finding::missing(
                "network namespace",
                found,
                "dtm is not in the network namespace of the engine's host: use --network host",
            )),
        }
    }

    /// The directory in which overlay networks are found.
    fn namespaces(&self, config: &HostConfig, sights: &Sights) -> Finding {
        let directory = config.paths.docker_netns.display();
        let needs_it = self.about().swarm || self.survey.networks.iter().any(is_hidden);
        let (found, advice) = match sights.namespaces() {
            Ok(seen) if seen.mounted > 0 || seen.files == 0 => {
                let found = format!("{directory}, with {} in it", seen.mounted);
                return Finding::fine("namespaces", found);
            }
            Ok(_files) => (
                format!("{directory}, without what is mounted there"),
                "overlay networks and Swarm's sandboxes are not found: mount the directory with :rslave",
            ),
            Err(error) => (
                format!("{directory}: {error}"),
                "overlay networks and Swarm's sandboxes are found there: --path.docker-netns must lead to it",
            ),
        };
        let verdict = if needs_it { Verdict::Missing } else { Verdict::Note };
        Finding::fine("namespaces", found).but(verdict, advice)
    }

    /// Whether the processes of its containers are in procfs. Those on the host's network are found by their groups.
    fn processes(&self, config: &HostConfig, sights: &Sights) -> Option<Finding> {
        let all = &self.survey.containers;
        let find = |id: &ContainerId| all.iter().find(|container| container.id == *id);
        let is_sought = |container: &&Arc<Container>| {
            container.has_process() && is_on_host(container, find) == Some(false)
        };
        let running: Vec<_> = all.iter().filter(is_sought).collect();
        let seen = running
            .iter()
            .filter(|container| sights.has_process(&container.id));
        let seen = seen.count();
        let found = format!(
            "{} has those of {seen} of {} containers with a network namespace",
            config.paths.procfs.display(),
            running.len()
        );
        match running.len() {
            0 => {
                let first = config.paths.procfs.join("1/ns/pid");
                let is_hosts = fs::metadata(&first).map_or(true, |first| first.ino() == HOSTS_PIDS);
                let found = format!("{} may not be the host's", config.paths.procfs.display());
                let advice = "no container runs to tell by: if dtm is in one itself, it needs --pid host";
                (!is_hosts).then(|| Finding::note("processes", found, advice))
            }
            all if all == seen => Some(Finding::fine("processes", found)),
            _ => Some(Finding::missing(
                "processes",
                found,
                "interfaces of the others get no name: use --pid host, or mount the host's /proc and say --path.procfs",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        check::table::Report,
        config::{AttachMode, DockerHost, Paths},
        docker::fixture::network,
    };

    fn report(name: &str, about: Option<About>) -> Report {
        let survey = Survey {
            name: name.to_owned(),
            is_podman: name == "Podman Engine",
            version: Arc::from("29.0.0"),
            api_version: "1.52".to_owned(),
            about,
            containers: Vec::new(),
            networks: vec![network("bridge", "bridge", Some("docker0"))],
        };
        let config = HostConfig {
            docker_host: DockerHost::Unix(PathBuf::from("/docker.sock")),
            attach_mode: AttachMode::Auto,
            paths: Paths {
                procfs: PathBuf::from("/nonexistent"),
                docker_netns: PathBuf::from("/nonexistent/netns"),
                bpffs: PathBuf::from("/nonexistent/bpf"),
            },
            btf: PathBuf::from("/nonexistent/btf"),
            uplinks: Vec::new(),
        };
        // A host with that bridge, and without the engine's directory.
        let sights = Sights::without_namespaces(std::io::ErrorKind::NotFound);
        let mut report = Report::new("dtm".to_owned());
        report.add("Docker", Engine { survey }.findings(&config, &sights));
        report
    }

    #[test]
    fn how_an_engine_runs_decides_what_is_missing() {
        let about = About::default();
        for (name, about, missing) in [
            ("Engine", Some(about), None),
            ("Engine", None, None),
            ("Podman Engine", Some(about), None),
            (
                "Engine",
                Some(About {
                    userns_remap: true,
                    ..about
                }),
                None,
            ),
            (
                "Engine",
                Some(About {
                    rootless: true,
                    ..about
                }),
                Some("users"),
            ),
            ("Engine", Some(About { swarm: true, ..about }), Some("namespaces")),
        ] {
            let text = report(name, about).to_string();
            let expected = missing.map_or("Everything that dtm counts".to_owned(), |missing| {
                format!("Not everything can be counted here, for: {missing}.")
            });
            assert!(text.lines().last().unwrap().starts_with(&expected), "{text}");
        }
    }

    #[test]
    fn an_engine_is_described_line_by_line() {
        insta::assert_snapshot!("engine", report("Engine", None).to_string());
        let remapped = About {
            userns_remap: true,
            swarm: true,
            ..About::default()
        };
        insta::assert_snapshot!("podman", report("Podman Engine", Some(remapped)).to_string());
    }
}
