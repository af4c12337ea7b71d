//! The host: its kernel, what dtm may do there, its control groups.

#[cfg(test)]
mod tests;

use std::{fs, io, path::Path};

use super::{
    kernel::{Loaded, Programs},
    table::Finding,
};
use crate::{
    bpf::{Bpffs, tcx_is_supported},
    config::{AttachMode, HostConfig, Paths},
    net::{Hierarchy, Requests, dump},
    uplinks::judge,
};

/// The oldest kernel, and the oldest one with drop reasons.
const OLDEST: (u32, u32) = (5, 8);
const WITH_REASONS: (u32, u32) = (5, 17);
/// The oldest with XDP links.
const WITH_XDP_LINKS: (u32, u32) = (5, 9);

/// What dtm needs, by the kernel's numbers (`include/uapi/linux/capability.h`).
const CAPABILITIES: [(&str, u32); 5] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// What the host offers.
#[derive(Debug)]
pub(super) struct Host {
    seen: Seen,
    hierarchy: Option<Hierarchy>,
}

/// The part of it that decides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// `uname -r`.
    release: String,
    /// This process's effective capabilities.
    capabilities: u64,
    loaded: Loaded,
    attach_mode: AttachMode,
    has_tcx: bool,
    groups: Groups,
    pins: Pins,
    /// The interfaces of `--xdp`, and whether dtm would attach there, or why not.
    uplinks: Vec<(String, Result<(), String>)>,
}

/// Where what is attached can be pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pins {
    path: String,
    /// What is there, or why nothing can be.
    found: Result<Bpffs, String>,
}

/// The cgroup v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Groups {
    /// Whether what was mounted is the host's, or why nothing was.
    mounted: Result<bool, String>,
    /// Whether there are hierarchies of v1 as well.
    has_v1: bool,
}

impl Host {
    pub(super) async fn look(config: &HostConfig) -> Self {
        let HostConfig {
            attach_mode,
            paths:
                Paths {
                    procfs,
                    bpffs,
                    docker_netns,
                },
            btf,
            uplinks,
            docker_host: _,
        } = config;
        let hierarchy = Hierarchy::open(procfs);
        let mounted = hierarchy.as_ref().map(Hierarchy::is_hosts);
        let read = |path: &str| fs::read_to_string(procfs.join(path)).unwrap_or_default();
        let seen = Seen {
            release: read("sys/kernel/osrelease").trim().to_owned(),
            capabilities: capabilities(Path::new("/proc/thread-self/status")).unwrap_or_default(),
            loaded: Loaded::try_all(btf).await,
            attach_mode: *attach_mode,
            has_tcx: tcx_is_supported(),
            pins: Pins {
                path: bpffs.display().to_string(),
                found: Bpffs::look(bpffs, procfs).map_err(|error| error.to_string()),
            },
            groups: Groups {
                mounted: mounted.map_err(ToString::to_string),
                has_v1: has_v1(&read("1/cgroup")),
            },
            uplinks: judged(uplinks, docker_netns),
        };
        Self {
            seen,
            hierarchy: hierarchy.ok(),
        }
    }

    /// The kernel's name.
    pub(super) fn kernel(&self) -> String {
        format!("Linux {}", self.seen.release)
    }

    pub(super) fn hierarchy(&self) -> Option<&Hierarchy> {
        self.hierarchy.as_ref()
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let seen = &self.seen;
        let mut findings = vec![seen.kernel(), seen.permissions()];
        findings.extend(seen.programs());
        // Who may load nothing is not told about TCX either.
        findings.extend(seen.loaded.programs.is_ok().then(|| seen.attaching()));
        findings.extend(seen.groups());
        findings.push(seen.pins());
        findings.extend(seen.uplinks());
        findings
    }
}

impl Seen {
    fn kernel(&self) -> Finding {
        let found = format!("Linux {}", self.release);
        match version(&self.release) {
            Some(version) if version < OLDEST => Finding::missing(
                "kernel",
                found,
                "too old: dtm needs Linux 5.8, drops with their reasons 5.17, TCX 6.6",
            ),
            _ => Finding::fine("kernel", found),
        }
    }

    fn permissions(&self) -> Finding {
        let lacks = |(_name, number): &&(&str, u32)| self.capabilities & 1 << number == 0;
        let lacking: Vec<_> = CAPABILITIES.iter().filter(lacks).map(|(name, _)| *name).collect();
        if lacking.is_empty() {
            Finding::fine("permissions", "all that dtm needs")
        } else {
            Finding::missing(
                "permissions",
                format!("without {}", lacking.join(", ")),
                "run dtm as root, or in a container with --privileged",
            )
        }
    }

    fn programs(&self) -> Vec<Finding> {
        let Loaded { types, programs } = &self.loaded;
        let mut findings = Vec::new();
        findings.push(match types {
            Ok(()) => Finding::fine("type information", "the kernel's own can be read"),
            Err(error) => Finding::missing(
                "type information",
                error,
                "drops are not counted: the kernel needs CONFIG_DEBUG_INFO_BTF, and --path.btf must lead to it",
            ),
        });
        let Programs {
            drops,
            reasons,
            groups,
            births,
            uplinks: _,
        } = match programs {
            Ok(programs) => programs,
            Err(error) => {
                let advice =
                    "nothing can be counted: run dtm as root on Linux 5.8 or later, or with --privileged";
                findings.push(Finding::missing("programs", error, advice));
                return findings;
            }
        };
        findings.push(Finding::fine("programs", "the kernel takes them"));
        findings.push(match (drops, reasons) {
            (true, true) => Finding::fine("drops", "with the kernel's reasons"),
            (true, false) => Finding::missing(
                "drops",
                "without reasons",
                "this kernel gives none: they came with Linux 5.17",
            ),
            (false, _) => {
                let is_old = version(&self.release).is_some_and(|version| version < WITH_REASONS);
                let advice = if is_old {
                    "they cannot be seen on this kernel: use Linux 5.17 or later"
                } else {
                    "they need the kernel's type information, and its tracepoint kfree_skb to be free for dtm"
                };
                Finding::missing("drops", "not counted", advice)
            }
        });
        if let Err(error) = groups {
            let advice = "containers on the host's network are not counted: their programs cannot be loaded";
            findings.push(Finding::missing("group programs", error, advice));
        }
        if let Err(error) = births {
            let advice = "containers on the host's network are counted from a second after their start only";
            findings.push(Finding::missing("births of groups", error, advice));
        }
        findings
    }

    fn attaching(&self) -> Finding {
        match (self.attach_mode, self.has_tcx) {
            (AttachMode::Clsact, _) => Finding::fine("attaching", "with clsact, as --attach-mode says"),
            (AttachMode::Auto, true) => Finding::fine(
                "attaching",
                "with TCX, and with clsact to what exists when dtm starts",
            ),
            (AttachMode::Tcx, true) => Finding::fine("attaching", "with TCX, as --attach-mode says"),
            (AttachMode::Auto, false) => Finding::note(
                "attaching",
                "with clsact",
                "no TCX, which came with Linux 6.6: first packets of macvlan and ipvlan devices may be missing",
            ),
            (AttachMode::Tcx, false) => Finding::missing(
                "attaching",
                "no TCX",
                "it came with Linux 6.6: dtm does not start with --attach-mode tcx here, use auto",
            ),
        }
    }

    fn pins(&self) -> Finding {
        let Pins { path, found } = &self.pins;
        match found {
            Ok(Bpffs::Mounted) => Finding::fine("pins", format!("what is attached outlives dtm, in {path}")),
            Ok(Bpffs::ToMount) => Finding::note(
                "pins",
                format!("no BPF file system at {path}"),
                "dtm mounts one there, so that what is attached outlives it",
            ),
            Ok(Bpffs::InContainer) => Finding::missing(
                "pins",
                format!("no BPF file system at {path}"),
                "nothing is counted while dtm's container is made anew: start it with -v /sys/fs/bpf:/sys/fs/bpf, and \
                 have one mounted there on the host",
            ),
            Err(error) => Finding::missing(
                "pins",
                format!("not in {path}: {error}"),
                "nothing is counted while dtm is restarted: --path.bpffs must be where a BPF file system is, or can be, \
                 mounted",
            ),
        }
    }

    fn uplinks(&self) -> Vec<Finding> {
        // Who may load nothing has been told so.
        let Ok(Programs { uplinks: loaded, .. }) = &self.loaded.programs else {
            return Vec::new();
        };
        let is_old = version(&self.release).is_some_and(|version| version < WITH_XDP_LINKS);
        let able = match loaded {
            Err(error) => Err((error.as_str(), "the program for uplinks cannot be loaded")),
            Ok(()) if is_old => Err(("no XDP links", "they came with Linux 5.9")),
            Ok(()) => Ok(()),
        };
        let mut findings = vec![match able {
            Ok(()) => Finding::fine("uplinks", "XDP can count at those that --xdp names"),
            Err((found, advice)) if self.uplinks.is_empty() => Finding::note("uplinks", found, advice),
            Err((found, advice)) => Finding::missing("uplinks", found, advice),
        }];
        for (name, judged) in &self.uplinks {
            let subject = format!("uplink {name}");
            findings.push(match judged {
                Ok(()) => Finding::fine(subject, "dtm attaches there, unless another XDP program is there"),
                Err(refusal) => Finding::missing(subject, "not counted", refusal),
            });
        }
        findings
    }

    fn groups(&self) -> Vec<Finding> {
        let found = if self.groups.has_v1 {
            "cgroup v2, beside hierarchies of v1"
        } else {
            "cgroup v2"
        };
        match &self.groups.mounted {
            Ok(true) => vec![Finding::fine("control groups", found)],
            Ok(false) => vec![Finding::missing(
                "control groups",
                "of dtm's own cgroup namespace only",
                "containers on the host's network are not found: use --cgroupns host, or --pid host and --privileged",
            )],
            Err(error) => vec![Finding::missing(
                "control groups",
                format!("no cgroup v2: {error}"),
                "containers on the host's network are not counted: they need cgroup v2, Linux 5.2 and CAP_SYS_ADMIN",
            )],
        }
    }
}

/// Whether dtm would attach to the interfaces with these names.
fn judged(names: &[String], docker_netns: &Path) -> Vec<(String, Result<(), String>)> {
    if names.is_empty() {
        return Vec::new();
    }
    let listed = Requests::open().and_then(|mut requests| Ok((dump(&mut requests)?, requests)));
    let mut listed = listed.map_err(|error| format!("interfaces cannot be listed: {error}"));
    let mut one = |name: &str| {
        let (links, requests) = listed.as_mut().map_err(|error| error.clone())?;
        let link = links.iter().find(|link| &*link.name == name);
        judge(link, requests, docker_netns)
            .map(drop)
            .map_err(|refusal| refusal.to_string())
    };
    names.iter().map(|name| (name.clone(), one(name))).collect()
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The effective capabilities in a process's `status`.
fn capabilities(status: &Path) -> io::Result<u64> {
    let status = fs::read_to_string(status)?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether a process's `cgroup` has groups of v1: those of v2 are in hierarchy 0, which has no controllers.
fn has_v1(groups: &str) -> bool {
    groups.lines().any(|line| !line.starts_with("0::"))
}
