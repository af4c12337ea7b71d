//! Which engines this machine has.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Which of the machine's engines to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum EngineKind {
    /// The distribution's.
    Old,
    /// The one built from source into Go's directory of programs, with its own runc beside it.
    Current,
    /// The distribution's Podman, which is none of Docker's but answers as one.
    #[value(skip)]
    Podman,
}

impl EngineKind {
    /// Both of Docker's.
    pub const ALL: [Self; 2] = [Self::Old, Self::Current];

    /// The newest one that this machine has.
    ///
    /// # Errors
    ///
    /// When it has none.
    pub fn newest() -> Result<Self> {
        if Self::Current.is_installed() {
            Ok(Self::Current)
        } else if Self::Old.is_installed() {
            Ok(Self::Old)
        } else {
            bail!("no dockerd on this machine: `cargo xtask setup` installs one")
        }
    }

    /// Whether this machine has it, complete.
    pub fn is_installed(self) -> bool {
        self.programs().is_ok()
    }

    pub(super) fn programs(self) -> Result<Programs> {
        let go = go_programs();
        let path = env::var_os("PATH").unwrap_or_default();
        // root's PATH after sudo or su may lack where daemons and iptables live.
        let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let usual: Vec<PathBuf> = env::split_paths(&path)
            .chain(daemons)
            .filter(|place| Some(place) != go.as_ref())
            .collect();
        match self {
            Self::Old => Programs::find(&usual, &usual, "dockerd", "runc"),
            Self::Podman => Programs::find(&usual, &usual, "podman", "crun"),
            Self::Current => {
                let go = go.context("no Go directory of programs: GOBIN, GOPATH and HOME are unset")?;
                let all: Vec<PathBuf> = std::iter::once(go.clone()).chain(usual).collect();
                Programs::find(&[go], &all, "dockerd", "runc")
            }
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "old",
            Self::Current => "current",
            Self::Podman => "podman",
        })
    }
}

/// Where `go install` puts programs, for whoever started sudo as well as for root.
pub fn go_programs() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(directory) = set("GOBIN") {
        return Some(directory.into());
    }
    let told = Command::new("go")
        .args(["env", "GOPATH"])
        .output()
        .ok()
        .filter(|go| go.status.success());
    let told = told.map(|go| String::from_utf8_lossy(&go.stdout).trim().to_owned());
    // GOPATH can be a list; programs go to its first entry.
    let path = told
        .map(OsString::from)
        .or_else(|| set("GOPATH"))
        .filter(|path| !path.is_empty());
    let first = path.and_then(|path| env::split_paths(&path).next());
    Some(
        first
            .or_else(|| Some(PathBuf::from(set("HOME")?).join("go")))?
            .join("bin"),
    )
}

/// The programs of one engine.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) server: PathBuf,
    pub(super) runtime: PathBuf,
    /// `None`: port publishing has to do without a proxy.
    pub(super) docker_proxy: Option<PathBuf>,
    /// What the server gets as PATH.
    pub(super) path: OsString,
}

impl Programs {
    fn find(own: &[PathBuf], all: &[PathBuf], server: &str, runtime: &str) -> Result<Self> {
        let required =
            |name: &str| find_program(own, name).with_context(|| format!("no {name} in {}", describe(own)));
        Ok(Self {
            server: required(server)?,
            runtime: required(runtime)?,
            docker_proxy: find_program(own, "docker-proxy"),
            path: env::join_paths(all).context("join PATH")?,
        })
    }
}

/// The program `name` as PATH finds it, the daemons' directories included.
pub(super) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/bin"].map(PathBuf::from))
        .collect();
    find_program(&places, name)
}

fn find_program(places: &[PathBuf], name: &str) -> Option<PathBuf> {
    places
        .iter()
        .map(|place| place.join(name))
        .find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn describe(places: &[PathBuf]) -> String {
    places
        .iter()
        .map(|place| place.display().to_string())
        .collect::<Vec<_>>()
        .join(":")
}
