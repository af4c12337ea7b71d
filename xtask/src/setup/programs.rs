//! Programs that dtm's demo and tests start, and Debian's packages that have them.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::apt::{self, Package};

/// A program and the package that brings it.
pub(super) type Program = (&'static str, &'static str);

/// What the demo needs.
pub(super) const RUN: &[Program] = &[
    ("dockerd", "docker.io"),
    ("containerd", "docker.io"),
    ("runc", "docker.io"),
    ("docker", "docker.io"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("busybox", "busybox-static"),
    ("nsenter", "util-linux"),
];

/// What the tests need besides.
pub(super) const TEST: &[Program] = &[
    ("nft", "nftables"),
    ("tc", "iproute2"),
    ("ss", "iproute2"),
    ("nstat", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("bpftool", "bpftool"),
    ("ps", "procps"),
    ("jq", "jq"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("strip", "binutils"),
    ("podman", "podman"),
    ("conmon", "conmon"),
    ("crun", "crun"),
];

/// What Podman looks for in a directory of its own, and the packages that bring it.
const OF_PODMAN: &[Program] = &[
    ("/usr/lib/podman/netavark", "netavark"),
    ("/usr/lib/podman/aardvark-dns", "aardvark-dns"),
];

/// The packages of those of `programs` that are not here.
pub(super) fn missing(programs: &[Program]) -> Vec<Package> {
    // The current engine's programs have the same names; they are no substitute for Debian's, which the tests start too.
    let of_go = xtask::host::go_programs();
    let is_debians = |file: &PathBuf| file.parent() != of_go.as_deref();
    let absent = programs
        .iter()
        .filter(|(program, _)| find_where(program, is_debians).is_none());
    let mut packages: Vec<Package> = absent.map(|&(brings, name)| Package { name, brings }).collect();
    let is_for_tests = programs.iter().any(|&(program, _)| program == "python3");
    if is_for_tests {
        let absent = OF_PODMAN.iter().filter(|(file, _)| !apt::has_file(file));
        packages.extend(absent.map(|&(brings, name)| Package { name, brings }));
    }
    if is_for_tests && !python_makes_environments() {
        packages.push(Package {
            name: "python3-venv",
            brings: "python3's venv",
        });
    }
    packages
}

/// The program `name`: on `PATH`, or where daemons are and a user's `PATH` does not look.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    find_where(name, |_file| true)
}

fn find_where(name: &str, is_wanted: impl Fn(&PathBuf) -> bool) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(name))
        .filter(is_wanted)
        .find(|file| {
            let metadata = file.metadata();
            metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}

/// The strict parser of `OpenMetrics` is a Python package, installed into an environment of its own.
fn python_makes_environments() -> bool {
    let imported = Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .stderr(Stdio::null())
        .status();
    imported.is_ok_and(|status| status.success())
}
