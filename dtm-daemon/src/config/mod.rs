//! What the operator asked for, checked once: every value in a [`Config`] can be used as it is.
//!
//! Flags win over `DTM_*` variables, those over the file named by `--config`, that over the defaults.

mod arguments;
mod docker_host;
mod file;
mod labels;
mod listen;
#[cfg(test)]
mod tests;
mod values;

use std::{ffi::OsString, fmt, path::PathBuf, sync::LazyLock, time::Duration};

use clap::ValueEnum;

pub use docker_host::DockerHost;
pub use labels::{ContainerLabel, ContainerLabels};
pub use listen::ListenAddress;

/// Where dtm listens unless told otherwise: every address of the host, IPv6 and IPv4.
pub const DEFAULT_LISTEN_ADDRESS: &str = ":10048";

/// Where BPF objects are pinned on a normal host.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

/// Where a normal kernel offers its own type information.
pub const DEFAULT_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The git revision this was built from, where the build knew it (`DTM_REVISION`); else empty.
pub const REVISION: &str = match option_env!("DTM_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--version` shows: the version, and the revision where it is known.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    if REVISION.is_empty() {
        VERSION.to_owned()
    } else {
        format!("{VERSION} ({REVISION})")
    }
});

/// The daemon's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    /// Where to listen; never empty.
    pub listen_addresses: Vec<ListenAddress>,
    /// The path of the metrics: starts with a slash and is none of dtm's other paths.
    pub telemetry_path: String,
    /// Which host and engine it is about, and how to count there.
    pub host: HostConfig,
    /// How long the series of a container that ended stay.
    pub linger: Duration,
    /// How many interfaces can be counted at once.
    pub max_interfaces: u32,
    /// Whether nothing is counted by scope and protocol.
    pub no_scopes: bool,
    /// Whether nothing is counted of who sends to whom.
    pub no_flows: bool,
    /// How many pairs of these are counted at once.
    pub max_pairs: u32,
    /// Whether nothing is counted of how TCP connections fare.
    pub no_tcp: bool,
    /// Whether nothing is counted of their round trips.
    pub no_tcp_rtt: bool,
    /// Whether nothing is to go on counting without the daemon.
    pub no_pin: bool,
    /// The Docker labels to show on `dtm_container_info`.
    pub container_labels: ContainerLabels,
    /// What to log: a level or a tracing filter, known to parse.
    pub log_filter: String,
    /// How to log.
    pub log_format: LogFormat,
}

/// The part of the configuration that says which host and engine it is about, and how dtm is to count there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The Docker engine.
    pub docker_host: DockerHost,
    /// How to attach to interfaces.
    pub attach_mode: AttachMode,
    /// Where things are on the host.
    pub paths: Paths,
    /// The running kernel's type information.
    pub btf: PathBuf,
    /// The interfaces at which to count what arrives at the host, each once; at most
    /// [`UPLINKS_MAX`](dtm_common::uplinks::UPLINKS_MAX).
    pub uplinks: Vec<String>,
}

/// Where things are on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Where the host's procfs is mounted.
    pub procfs: PathBuf,
    /// Where the engine mounts the network namespaces it made.
    pub docker_netns: PathBuf,
    /// Where a BPF file system is mounted, or is to be.
    pub bpffs: PathBuf,
}

/// What dtm is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Count, and serve what was counted.
    Serve(Box<Config>),
    /// Say what can be counted.
    Check(HostConfig),
    /// Take off and remove what was left.
    Detach(Paths),
}

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachMode {
    /// clsact for interfaces that exist at start, TCX for those born later where the kernel has it
    Auto,
    /// TCX only (kernel 6.6 or newer)
    Tcx,
    /// clsact only
    Clsact,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Help or the version was asked for: the text for standard output.
    Answer(String),
    /// The command line, the environment or the file is wrong: one line that says what to do.
    Usage(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Answer(text) | Self::Usage(text)) = self;
        formatter.write_str(text)
    }
}

impl Task {
    /// Reads the command line, the environment and the file.
    pub fn load() -> Result<Self, Refusal> {
        Self::from_arguments(std::env::args_os().collect(), std::env::var_os("DOCKER_HOST"))
    }

    /// Reads `arguments` (the program's name first), `DTM_*` variables and the file. `docker_host` is what
    /// `DOCKER_HOST` says: Docker's own variable, used where nothing of dtm's is given.
    pub(crate) fn from_arguments(
        arguments: Vec<OsString>,
        docker_host: Option<OsString>,
    ) -> Result<Self, Refusal> {
        arguments::parse(arguments, docker_host)
    }
}

#[cfg(test)]
impl Config {
    /// As [`Task::from_arguments`], of a daemon.
    pub(crate) fn from_arguments(
        arguments: Vec<OsString>,
        docker_host: Option<OsString>,
    ) -> Result<Self, Refusal> {
        match Task::from_arguments(arguments, docker_host)? {
            Task::Serve(config) => Ok(*config),
            Task::Check(_) | Task::Detach(_) => panic!("another command has another configuration"),
        }
    }
}
