//! Hermetic Docker hosts: a network and a mount namespace with an engine of their own.
//!
//! A [`Host`] has its own interfaces, its own `/run`, `/sys` and bpffs, and its own cgroups; what runs in it sees
//! Docker at the usual paths and nothing of the machine's own Docker. It never makes a process-id namespace: dtm
//! needs the host's ids. When the host is dropped, or its process dies in whatever way, everything in it ends and
//! nothing stays: no process, mount, namespace, interface, rule, cgroup or file.

mod build;
mod cable;
mod cgroups;
mod connect;
mod engine;
mod http;
mod image;
mod link;
mod name;
mod podman;
mod poll;
mod process;
mod programs;
mod runtime;
mod sweep;
mod users;
mod warden;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

pub use cgroups::CgroupWorld;
pub use connect::Network;
pub use engine::{Engine, EngineOptions};
pub use http::{Answer, get};
pub use image::Image;
pub use link::{ContainerLink, Link, LinkStatistics};
pub use poll::eventually;
pub use process::{Running, run};
pub use programs::{EngineKind, go_programs};

use cgroups::Hierarchies;
use name::HostName;
use warden::Warden;

/// A machine within the machine, for one Docker engine and what observes it.
#[derive(Debug)]
pub struct Host {
    name: HostName,
    directory: PathBuf,
    cgroup: PathBuf,
    holder: u32,
    warden: Warden,
}

impl Host {
    /// Makes one, after clearing away those whose owners have died.
    ///
    /// # Errors
    ///
    /// Without root, without a cgroup v2 hierarchy, or when a namespace cannot be set up.
    pub fn new(world: CgroupWorld) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("a Docker host in namespaces needs root: run this with sudo");
        }
        let hierarchies = Hierarchies::of_this_machine()?;
        if world == CgroupWorld::Hybrid && hierarchies.legacy.is_empty() {
            bail!("this machine has no cgroup v1 hierarchies to make a hybrid of");
        }
        sweep::sweep(&hierarchies);
        let name = HostName::next()?;
        let directory = std::env::temp_dir().join(name.to_string());
        let cgroup = hierarchies.unified.join(name.to_string());
        let (warden, holder) = Warden::hold(&name.to_string(), &directory, world, &hierarchies)?;
        Ok(Self {
            name,
            directory,
            cgroup,
            holder,
            warden,
        })
    }

    /// Its unique name, of its cgroups and its directory too.
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// A directory that both sides see under this path and that goes with the host.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its control group in the v2 hierarchy, as this process sees it. Whatever runs in the host is in one below it.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The process that keeps the namespaces; `/proc/<holder>/ns` has them.
    pub fn holder(&self) -> u32 {
        self.holder
    }

    /// The path by which this process reaches what the host has at `path`.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder))
    }

    /// A command that will run `program` in the host, in its root directory.
    ///
    /// Its process has the id of the child that this process then has.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in("host", program)
    }

    fn command_in(&self, group: &str, program: impl AsRef<OsStr>) -> Command {
        // Joining the group by itself leaves no moment in which a child is outside of it.
        const ENTER: &str = r#"echo $$ >"$1" && shift && exec nsenter "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-c", ENTER, "enter"])
            .arg(self.cgroup.join(group).join("cgroup.procs"));
        command
            .arg(format!("--target={}", self.holder))
            .args(["--net", "--mount", "--"])
            .arg(program);
        // A terminal's Ctrl-C is for the owner, who then ends its host in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    /// Runs `program` in the host to its end and gives its standard output.
    ///
    /// # Errors
    ///
    /// With its standard error, when it fails.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        run(self.command(program).args(arguments))
    }

    /// Starts `program` in the host; it ends with the guard. Its output goes to a file in the host's directory.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Running> {
        let program = program.as_ref();
        let name = Path::new(program)
            .file_name()
            .unwrap_or(program)
            .to_string_lossy()
            .into_owned();
        self.spawn_command(self.command(program).args(arguments), &name)
    }

    /// Starts a command made with [`command`](Self::command); `name` is that of its log.
    pub fn spawn_command(&self, command: &mut Command, name: &str) -> Result<Running> {
        Running::spawn_logged(command, &self.directory.join(format!("{name}.log")))
    }

    /// Ends everything in the host and removes it.
    ///
    /// # Errors
    ///
    /// With what is left.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.warden
            .close()
            .with_context(|| format!("close host {}", self.name))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}
