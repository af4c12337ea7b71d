//! The command line and `DTM_*` variables.
#![expect(clippy::doc_markdown, reason = "the doc comments are the text of --help")]

use std::{ffi::OsString, path::PathBuf, str::FromStr as _, time::Duration};

use clap::{
    ArgAction, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    parser::ValueSource,
};
use dtm_common::uplinks::UPLINKS_MAX;

use super::{
    AttachMode, Config, ContainerLabels, DEFAULT_BPFFS, DEFAULT_BTF, DEFAULT_LISTEN_ADDRESS, DockerHost,
    HostConfig, LONG_VERSION, ListenAddress, LogFormat, Paths, Refusal, Task, file, values,
};

/// What `--docker.host` is called on the command line.
const DOCKER_HOST: &str = "docker.host";
/// The one setting that cannot be in the file.
const CONFIG: &str = "config";

/// Docker Traffic Monitor: exact per-container traffic and drops for Prometheus.
#[derive(Debug, Parser)]
#[command(
    name = "dtm",
    version = LONG_VERSION.as_str(),
    args_conflicts_with_subcommands = true,
    after_help = "Flags win over DTM_* variables, those over the file of --config, that over the defaults.",
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count, and serve what was counted (what dtm does without a command)
    #[command(version = LONG_VERSION.as_str())]
    Serve(Arguments),
    /// Say what this host and its engine offer, and what dtm could not count there
    #[command(version = LONG_VERSION.as_str(), after_help = CHECK)]
    Check(CheckArguments),
    /// Take off every program, link, pin and filter that dtm has left on this host
    #[command(version = LONG_VERSION.as_str(), after_help = DETACH)]
    Detach(DetachArguments),
}

/// What `dtm check --help` ends with.
const CHECK: &str = "\
Starts nothing, changes nothing and can run beside a dtm. Attaches nothing but, for a moment, the programs that show what
the kernel allows. To be run as dtm is to run: as root, or in a container with the same options.

Exit code 0: everything that dtm counts can be counted here; 1: something would be missing, and it says which; 64: wrong usage.

Flags win over DTM_* variables, those over the file of --config, that over the defaults.";

/// What `dtm detach --help` ends with.
const DETACH: &str = "\
dtm leaves what it attached in place when it ends, so that the next one goes on with it. This takes it off: what this version
left and what any other did, also after a crash. It touches nothing of others, and leaves qdiscs, for somebody may have put
filters on them since. It does not run beside a dtm.

Exit code 0: nothing of dtm's is left; 1: something could not be removed, and it says what; 64: wrong usage.

Flags win over DTM_* variables, those over the file of --config, that over the defaults.";

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
struct Arguments {
    /// TOML file with the same keys as the flags, such as linger = "10m" or log.level = "debug"
    #[arg(long = CONFIG, env = "DTM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Address to serve on: :port, address:port or [IPv6 address]:port; repeatable, or separated by commas
    #[arg(
        long = "web.listen-address",
        env = "DTM_WEB_LISTEN_ADDRESS",
        value_name = "ADDRESS",
        default_value = DEFAULT_LISTEN_ADDRESS,
        value_delimiter = ',',
        help_heading = "Web"
    )]
    listen_addresses: Vec<ListenAddress>,

    /// Path of the metrics
    #[arg(
        long = "web.telemetry-path",
        env = "DTM_WEB_TELEMETRY_PATH",
        value_name = "PATH",
        default_value = "/metrics",
        value_parser = values::telemetry_path,
        help_heading = "Web"
    )]
    telemetry_path: String,

    #[command(flatten)]
    host: HostArguments,

    /// Docker label to show on dtm_container_info as label_NAME; repeatable, or separated by commas
    #[arg(
        long = "container-labels",
        env = "DTM_CONTAINER_LABELS",
        value_name = "LABEL",
        value_delimiter = ',',
        help_heading = "Docker"
    )]
    container_labels: Vec<String>,

    /// How long the final totals of a container that ended stay: 5m, 300s or seconds; at most 24h
    #[arg(
        long = "linger",
        env = "DTM_LINGER",
        value_name = "DURATION",
        default_value = "5m",
        value_parser = values::linger,
        help_heading = "Counting"
    )]
    linger: Duration,

    /// How many interfaces can be counted at once, from 64 to 65536
    #[arg(
        long = "max-interfaces",
        env = "DTM_MAX_INTERFACES",
        value_name = "NUMBER",
        default_value_t = 8192,
        value_parser = clap::value_parser!(u32).range(64..=65_536),
        help_heading = "Counting"
    )]
    max_interfaces: u32,

    /// Do not count by scope and protocol: no dtm_container_traffic_*, SYNs and services
    #[arg(
        long = "no-scopes",
        env = "DTM_NO_SCOPES",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = ArgAction::Set,
        hide_default_value = true,
        help_heading = "Counting"
    )]
    no_scopes: bool,

    /// Do not count who sends to whom: no dtm_flow_*
    #[arg(
        long = "no-flows",
        env = "DTM_NO_FLOWS",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = ArgAction::Set,
        hide_default_value = true,
        help_heading = "Counting"
    )]
    no_flows: bool,

    /// How many pairs of who sends to whom are counted at once, from 16 to 100000; the rest is @other
    #[arg(
        long = "flows.max-pairs",
        env = "DTM_FLOWS_MAX_PAIRS",
        value_name = "NUMBER",
        default_value_t = 2000,
        value_parser = clap::value_parser!(u32).range(16..=100_000),
        help_heading = "Counting"
    )]
    max_pairs: u32,

    /// Do not count how TCP connections fare: no dtm_container_tcp_* but SYNs
    #[arg(
        long = "no-tcp",
        env = "DTM_NO_TCP",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = ArgAction::Set,
        hide_default_value = true,
        help_heading = "Counting"
    )]
    no_tcp: bool,

    /// Do not count round-trip times of TCP connections: no dtm_container_tcp_rtt_seconds
    #[arg(
        long = "no-tcp-rtt",
        env = "DTM_NO_TCP_RTT",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = ArgAction::Set,
        hide_default_value = true,
        help_heading = "Counting"
    )]
    no_tcp_rtt: bool,

    /// Leave nothing behind: what is attached does not go on counting until the next start
    #[arg(
        long = "no-pin",
        env = "DTM_NO_PIN",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = ArgAction::Set,
        hide_default_value = true,
        help_heading = "Counting"
    )]
    no_pin: bool,

    /// What to log: error, warn, info, debug, trace or a filter such as info,dtm_daemon=debug
    #[arg(
        long = "log.level",
        env = "DTM_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        value_parser = values::log_filter,
        help_heading = "Log"
    )]
    log_filter: String,

    /// How to log
    #[arg(
        long = "log.format",
        env = "DTM_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        help_heading = "Log"
    )]
    log_format: LogFormat,
}

/// What says which host and engine it is about, and how dtm is to count there.
#[derive(Debug, Args)]
struct HostArguments {
    /// Docker engine: unix:///path or tcp://host:port; without this, what DOCKER_HOST says
    #[arg(
        long = DOCKER_HOST,
        env = "DTM_DOCKER_HOST",
        value_name = "URL",
        default_value = DockerHost::DEFAULT,
        help_heading = "Docker"
    )]
    docker_host: DockerHost,

    /// How to attach to interfaces
    #[arg(
        long = "attach-mode",
        env = "DTM_ATTACH_MODE",
        value_name = "MODE",
        value_enum,
        default_value_t = AttachMode::Auto,
        help_heading = "Counting"
    )]
    attach_mode: AttachMode,

    #[command(flatten)]
    paths: PathArguments,

    /// Type information of the running kernel
    #[arg(
        long = "path.btf",
        env = "DTM_PATH_BTF",
        value_name = "FILE",
        default_value = DEFAULT_BTF,
        value_parser = values::absolute_path,
        help_heading = "Host"
    )]
    btf: PathBuf,

    /// Uplink or bridge at which to count with XDP what arrives before the host's firewall; repeatable, or separated by commas
    #[arg(
        long = "xdp",
        env = "DTM_XDP",
        value_name = "INTERFACE",
        value_delimiter = ',',
        value_parser = values::interface_name,
        help_heading = "Counting"
    )]
    uplinks: Vec<String>,
}

/// Where things are on the host.
#[derive(Debug, Args)]
struct PathArguments {
    /// Where the host's procfs is mounted
    #[arg(
        long = "path.procfs",
        env = "DTM_PATH_PROCFS",
        value_name = "DIRECTORY",
        default_value = "/proc",
        value_parser = values::absolute_path,
        help_heading = "Host"
    )]
    procfs: PathBuf,

    /// Where the engine mounts the network namespaces it made: netns in its --exec-root
    #[arg(
        long = "path.docker-netns",
        env = "DTM_PATH_DOCKER_NETNS",
        value_name = "DIRECTORY",
        default_value = "/var/run/docker/netns",
        value_parser = values::absolute_path,
        help_heading = "Host"
    )]
    docker_netns: PathBuf,

    /// BPF file system that what is attached is pinned in; mounted there if it is not
    #[arg(
        long = "path.bpffs",
        env = "DTM_PATH_BPFFS",
        value_name = "DIRECTORY",
        default_value = DEFAULT_BPFFS,
        value_parser = values::absolute_path,
        help_heading = "Host"
    )]
    bpffs: PathBuf,
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// TOML file with the same keys as the flags, such as linger = "10m" or log.level = "debug"
    #[arg(long = CONFIG, env = "DTM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    host: HostArguments,
}

#[derive(Debug, Args)]
struct DetachArguments {
    /// TOML file with the same keys as the flags, such as linger = "10m" or log.level = "debug"
    #[arg(long = CONFIG, env = "DTM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    paths: PathArguments,
}

/// Reads everything twice: once for what was given and where the file is, once more with what the file and
/// Docker's own variable add put before it. So every value takes the same way, and clap judges it.
pub(super) fn parse(mut arguments: Vec<OsString>, docker_host: Option<OsString>) -> Result<Task, Refusal> {
    let matches = CommandLine::command()
        .try_get_matches_from(&arguments)
        .map_err(|error| refusal(&error))?;
    // Flags and a command exclude each other: a command can only come first.
    let (given, first_flag, takes): (_, _, fn(&str) -> bool) = match matches.subcommand() {
        Some(("check", given)) => (given, 2, has_flag::<HostArguments>),
        Some(("detach", given)) => (given, 2, has_flag::<PathArguments>),
        Some((_serve, given)) => (given, 2, is_setting),
        None => (&matches, 1, is_setting),
    };
    let mut added = from_docker(given, docker_host)?;
    added.retain(|setting| takes(&setting.key));
    let config = given.get_one::<PathBuf>(CONFIG);
    if let Some(path) = config {
        let in_file = |problem| usage(&format!("{}: {problem}", path.display()));
        for setting in file::read(path, &is_setting).map_err(in_file)? {
            // The file is dtm's, whatever the command takes of it.
            if takes(&setting.key)
                && !is_given(given, &setting.key)
                && !added.iter().any(|other| other.key == setting.key)
            {
                added.push(setting);
            }
        }
    }
    let added = added.into_iter().flat_map(file::Setting::into_arguments);
    arguments.splice(
        first_flag.min(arguments.len())..first_flag.min(arguments.len()),
        added,
    );

    let line = CommandLine::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    let line = line.map_err(|error| match (config, refusal(&error)) {
        // Everything else was right at the first reading.
        (Some(path), Refusal::Usage(problem)) => Refusal::Usage(format!("{}: {problem}", path.display())),
        (_, refusal) => refusal,
    })?;
    let arguments = match line.command {
        Some(Command::Check(CheckArguments { config: _, host })) => {
            let host = host.check().map_err(|problem| usage(&problem))?;
            return Ok(Task::Check(host));
        }
        Some(Command::Detach(DetachArguments { config: _, paths })) => {
            return Ok(Task::Detach(paths.into()));
        }
        Some(Command::Serve(arguments)) => arguments,
        None => line.arguments,
    };
    let config = arguments.check().map_err(|problem| usage(&problem))?;
    Ok(Task::Serve(Box::new(config)))
}

/// What `DOCKER_HOST` says, where nothing of dtm's own overrides it. Empty is as good as not there, as for
/// Docker's client.
fn from_docker(given: &ArgMatches, docker_host: Option<OsString>) -> Result<Vec<file::Setting>, Refusal> {
    let Some(url) = docker_host.filter(|url| !url.is_empty() && !is_given(given, DOCKER_HOST)) else {
        return Ok(Vec::new());
    };
    let url = url.to_string_lossy().into_owned();
    match DockerHost::from_str(&url) {
        Ok(_) => Ok(vec![file::Setting {
            key: DOCKER_HOST.to_owned(),
            values: vec![url],
        }]),
        Err(problem) => Err(usage(&format!("DOCKER_HOST is {url:?}: {problem}"))),
    }
}

/// Whether the file may hold `key`.
fn is_setting(key: &str) -> bool {
    key != CONFIG && has_flag::<Arguments>(key)
}

fn has_flag<A: Args>(key: &str) -> bool {
    let command = A::augment_args(clap::Command::new(""));
    command
        .get_arguments()
        .any(|argument| argument.get_long() == Some(key))
}

fn is_given(matches: &ArgMatches, key: &str) -> bool {
    let command = Arguments::augment_args(clap::Command::new(""));
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_long() == Some(key));
    let source = argument.and_then(|argument| matches.value_source(argument.get_id().as_str()));
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// clap's answer, or its error in one line: the problem and, where it has one, its tip.
fn refusal(error: &clap::Error) -> Refusal {
    let text = error.to_string();
    if !error.use_stderr() {
        return Refusal::Answer(text);
    }
    let mut paragraphs = text.split("\n\n");
    let problem = paragraphs
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    let tip = paragraphs
        .next()
        .filter(|paragraph| paragraph.trim_start().starts_with("tip: "));
    match tip {
        Some(tip) => usage(&format!("{problem}; {}", tip.trim())),
        None => usage(problem),
    }
}

fn usage(problem: &str) -> Refusal {
    let line = problem.split_whitespace().collect::<Vec<_>>().join(" ");
    Refusal::Usage(format!("{line}; try 'dtm --help'"))
}

impl HostArguments {
    /// What can only be said of several values together.
    fn check(self) -> Result<HostConfig, String> {
        let Self {
            docker_host,
            attach_mode,
            paths,
            btf,
            uplinks,
        } = self;
        let uplinks = each_once(uplinks);
        if uplinks.len() > UPLINKS_MAX as usize {
            return Err(format!(
                "invalid value for '--xdp <INTERFACE>': {} interfaces, and at most {UPLINKS_MAX} can be counted at",
                uplinks.len()
            ));
        }
        Ok(HostConfig {
            docker_host,
            attach_mode,
            paths: paths.into(),
            btf,
            uplinks,
        })
    }
}

/// Without repetitions, in the order in which they came.
fn each_once<T: PartialEq>(given: Vec<T>) -> Vec<T> {
    let mut once = Vec::with_capacity(given.len());
    for value in given {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

impl From<PathArguments> for Paths {
    fn from(arguments: PathArguments) -> Self {
        let PathArguments {
            procfs,
            docker_netns,
            bpffs,
        } = arguments;
        Self {
            procfs,
            docker_netns,
            bpffs,
        }
    }
}

impl Arguments {
    /// What can only be said of several values together.
    fn check(self) -> Result<Config, String> {
        let Self {
            config: _,
            listen_addresses,
            telemetry_path,
            host,
            container_labels,
            linger,
            max_interfaces,
            no_scopes,
            no_flows,
            max_pairs,
            no_tcp,
            no_tcp_rtt,
            no_pin,
            log_filter,
            log_format,
        } = self;
        let container_labels = ContainerLabels::new(container_labels)
            .map_err(|problem| format!("invalid value for '--container-labels <LABEL>': {problem}"))?;
        Ok(Config {
            listen_addresses: each_once(listen_addresses),
            telemetry_path,
            host: host.check()?,
            linger,
            max_interfaces,
            no_scopes,
            no_flows,
            max_pairs,
            no_tcp,
            no_tcp_rtt,
            no_pin,
            container_labels,
            log_filter,
            log_format,
        })
    }
}
