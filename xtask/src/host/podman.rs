//! Podman in a host of its own: a service that answers as Docker does.
//!
//! Its control groups are below the root that it sees, and nothing else says where: it gets a control group namespace in
//! which the host's own group is the root. Everything else it keeps is in the host's directory and `/run`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::programs::{EngineKind, Programs};
use super::{Host, run, runtime};

/// Inside the host: where Podman has it.
pub(super) const SOCKET: &str = "/run/podman/podman.sock";
/// The group above those of the containers, below the host's.
pub(super) const PARENT: &str = "libpod_parent";

const CONFIGURATION: &str = "containers.conf";

/// Where the control group namespace is kept.
const GROUPS: &str = "/run/podman/cgroups";

/// Keeps a namespace whose root is the host's own group. Nobody can make it later: a group that hands controllers down
/// may hold no process.
const KEEP: &str = r#"
    mkdir -p /run/podman
    : >"$1"
    mount --bind /proc/self/ns/cgroup "$1"
"#;

/// Shows Podman the hierarchy from that root, and Podman alone: what it mounts itself is the host's.
const ENTER: &str = r#"
    mount --make-private /sys
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # A cache of what registries have, wherever everything else is.
    [ ! -d /var/lib/containers ] || mount -t tmpfs tmpfs /var/lib/containers
    exec "$@"
"#;

/// Writes what Podman reads of its configuration.
pub(super) fn configure(host: &Host, programs: &Programs) -> Result<()> {
    let directory = host.directory();
    let crun = runtime::install_for_podman(directory, &programs.runtime)?;
    let crun = crun.as_deref().unwrap_or(&programs.runtime);
    // Locks in shared memory would be all of this machine's.
    let configuration = format!(
        r#"[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "crun"
[engine.runtimes]
crun = ["{crun}"]
[network]
network_backend = "netavark"
network_config_dir = "{networks}"
"#,
        crun = crun.display(),
        networks = directory.join("networks").display(),
    );
    fs::write(directory.join(CONFIGURATION), configuration).context("write Podman's configuration")?;
    let mut keep = host.command_in("", "unshare");
    run(keep.args(["--cgroup", "--", "sh", "-euc", KEEP, "podman", GROUPS])).map(drop)
}

/// Podman's client, which needs no service.
pub(super) fn command(host: &Host) -> Result<Command> {
    let programs = EngineKind::Podman.programs()?;
    let directory = host.directory();
    let mut command = host.command_in("engine", "nsenter");
    command.arg(format!("--cgroup={GROUPS}"));
    command.args(["unshare", "--mount", "--propagation", "unchanged", "--"]);
    command
        .args(["sh", "-euc", ENTER, "podman"])
        .arg(&programs.server);
    command.arg("--root").arg(directory.join("data"));
    command.args(["--runroot", "/run/containers", "--tmpdir", "/run/libpod"]);
    command.args(["--storage-driver", "overlay"]);
    command.env("PATH", &programs.path);
    command.env("CONTAINERS_CONF", directory.join(CONFIGURATION));
    Ok(command)
}

/// The service, for ever.
pub(super) fn service(host: &Host) -> Result<Command> {
    let mut command = command(host)?;
    command.args(["system", "service", "--time=0"]);
    command.arg(format!("unix://{SOCKET}"));
    Ok(command)
}
