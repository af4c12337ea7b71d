//! A Docker engine in a host of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::cgroups::kill_all;
use super::process::{describe, output_of};
use super::programs::EngineKind;
use super::{Host, Running, eventually, http, podman, run, runtime, users};

/// Inside the host: where every Docker on Linux has it.
const SOCKET: &str = "/run/docker.sock";
const READY: Duration = Duration::from_mins(1);
/// Without live-restore the engine gives its containers ten seconds to end.
const STOP: Duration = Duration::from_secs(40);
const AFTER_KILL: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(10);

/// How to run an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Which one.
    pub kind: EngineKind,
    /// Containers go on while the engine is stopped.
    pub live_restore: bool,
    /// The default bridge has IPv6 too. Networks of one's own can have it in any case.
    pub ipv6: bool,
    /// Root in a container is nobody outside of it.
    pub remaps_users: bool,
    /// More arguments for dockerd.
    pub arguments: Vec<String>,
}

impl EngineOptions {
    /// As the engine comes.
    pub fn new(kind: EngineKind) -> Self {
        Self {
            kind,
            live_restore: false,
            ipv6: false,
            remaps_users: false,
            arguments: Vec::new(),
        }
    }
}

/// A dockerd, or what answers in its place, and all it started. Owns its host; both end together.
#[derive(Debug)]
pub struct Engine {
    // Fields drop in this order: the guard first, or it would wait for a process the host has ended.
    dockerd: Option<Running>,
    host: Host,
    options: EngineOptions,
    privileged: Option<PathBuf>,
    /// None where the engine is none of Docker's.
    scopes: Option<PathBuf>,
}

impl Engine {
    /// The arguments of `docker run` that give a container the control group that systemd would.
    pub const IN_SCOPE: [&str; 2] = ["--runtime", runtime::SCOPES];

    /// Starts an engine in `host` and waits until it answers.
    ///
    /// # Errors
    ///
    /// With the end of its log, when it does not come up.
    pub fn start(host: Host, options: EngineOptions) -> Result<Self> {
        let programs = options.kind.programs()?;
        let (directory, name) = (host.directory(), host.name());
        let (privileged, scopes) = if options.kind == EngineKind::Podman {
            podman::configure(&host, &programs)?;
            (None, None)
        } else {
            // The machine's own /etc/docker/daemon.json says nothing here.
            fs::write(directory.join("daemon.json"), "{}").context("write daemon.json")?;
            let runc = &programs.runtime;
            let scopes = runtime::install_scopes(directory, &name, &cgroup_parent(&name), runc)?;
            (runtime::install(directory, runc)?, Some(scopes))
        };
        if options.remaps_users {
            users::give(&host)?;
        }
        let mut engine = Self {
            dockerd: None,
            host,
            options,
            privileged,
            scopes,
        };
        engine.start_again()?;
        Ok(engine)
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), with all it knew.
    pub fn start_again(&mut self) -> Result<()> {
        if self.dockerd.is_some() {
            bail!("the engine runs already");
        }
        let mut command = match self.options.kind {
            EngineKind::Podman => podman::service(&self.host)?,
            EngineKind::Old | EngineKind::Current => self.dockerd_command()?,
        };
        let mut dockerd = self.host.spawn_command(&mut command, "dockerd")?;
        let ready = eventually(READY, "an answer of dockerd", || {
            if let Some(status) = dockerd.try_wait()? {
                bail!("dockerd ended: {status}");
            }
            Ok(self.ping().then_some(()))
        });
        ready.map_err(|error| dockerd.explain(&error))?;
        self.dockerd = Some(dockerd);
        Ok(())
    }

    fn dockerd_command(&self) -> Result<Command> {
        let Self {
            host,
            options,
            privileged,
            scopes,
            ..
        } = self;
        let EngineOptions {
            kind,
            live_restore,
            ipv6,
            remaps_users,
            arguments,
        } = options;
        let programs = kind.programs()?;
        let mut command = host.command_in("engine", &programs.server);
        command.env("PATH", &programs.path);
        command.arg("--data-root").arg(host.directory().join("data"));
        command
            .arg("--config-file")
            .arg(host.directory().join("daemon.json"));
        command.args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"]);
        command.arg(format!("--host=unix://{SOCKET}"));
        command.arg(format!("--cgroup-parent={}", cgroup_parent(&host.name())));
        // Without a systemd to ask.
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        if *kind == EngineKind::Current {
            // containerd's snapshotters would need an unpacker newer than the distribution's containerd has.
            command.args(["--feature", "containerd-snapshotter=false"]);
        }
        if programs.docker_proxy.is_none() {
            // Another version's proxy does not understand this one's arguments.
            command.arg("--userland-proxy=false");
        }
        let privileged = privileged.as_ref().map(|path| (runtime::NAME, path));
        let scopes = scopes.as_ref().map(|path| (runtime::SCOPES, path));
        for (name, path) in privileged.into_iter().chain(scopes) {
            command
                .arg("--add-runtime")
                .arg(format!("{name}={}", path.display()));
        }
        if *live_restore {
            command.arg("--live-restore");
        }
        if *ipv6 {
            command.args(["--ipv6", "--fixed-cidr-v6", "fd00:d7::/64"]);
        }
        if *remaps_users {
            command.arg(format!("--userns-remap={}", users::NAME));
        }
        command.args(arguments);
        Ok(command)
    }

    fn ping(&self) -> bool {
        let answer = UnixStream::connect(self.socket_outside()).and_then(|socket| {
            socket.set_read_timeout(Some(REQUEST))?;
            socket.set_write_timeout(Some(REQUEST))?;
            Ok(socket)
        });
        answer.is_ok_and(|socket| http::get(socket, "/_ping").is_ok_and(|answer| answer.status == 200))
    }

    /// Whether containers go on while it is stopped, from its next start on.
    pub fn set_live_restore(&mut self, live_restore: bool) {
        self.options.live_restore = live_restore;
    }

    /// The host it runs in.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Which engine it is.
    pub fn kind(&self) -> EngineKind {
        self.options.kind
    }

    /// dockerd's process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.dockerd.as_ref().map(Running::id)
    }

    /// What dockerd has logged.
    pub fn log(&self) -> String {
        self.dockerd.as_ref().map(Running::log).unwrap_or_default()
    }

    /// Its socket as a process in the host sees it.
    pub fn socket(&self) -> &'static str {
        match self.options.kind {
            EngineKind::Podman => podman::SOCKET,
            EngineKind::Old | EngineKind::Current => SOCKET,
        }
    }

    /// Its socket as this process sees it.
    pub fn socket_outside(&self) -> PathBuf {
        self.host.outside(self.socket())
    }

    /// The arguments of `docker run` that make a container privileged on this machine.
    pub fn privileged(&self) -> &'static [&'static str] {
        if self.privileged.is_some() {
            &["--privileged", "--runtime", runtime::NAME]
        } else {
            &["--privileged"]
        }
    }

    /// Docker's command-line client, pointed at this engine.
    pub fn docker_command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.host.command("docker");
        command
            .arg(format!("--host=unix://{}", self.socket()))
            .args(arguments);
        command.env("DOCKER_CONFIG", self.host.directory().join("docker-client"));
        for variable in [
            "DOCKER_HOST",
            "DOCKER_CONTEXT",
            "DOCKER_TLS",
            "DOCKER_TLS_VERIFY",
            "DOCKER_API_VERSION",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs Podman's own client, for what Docker's API has no words for, and gives what it printed, trimmed.
    ///
    /// # Errors
    ///
    /// With its error text, and where the engine is another.
    pub fn podman(&self, arguments: &[&str]) -> Result<String> {
        if self.options.kind != EngineKind::Podman {
            bail!("the engine is {}", self.options.kind);
        }
        let mut command = podman::command(&self.host)?;
        run(command.args(arguments)).map(|output| output.trim().to_owned())
    }

    /// Runs `docker` with `arguments` and gives what it printed, trimmed.
    ///
    /// # Errors
    ///
    /// With its error text.
    pub fn docker<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let mut command = self.docker_command(arguments);
        run(&mut command).map(|output| output.trim().to_owned())
    }

    /// As [`docker`](Self::docker), with `input` on its standard input.
    pub fn docker_with_input<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Result<String> {
        let mut command = self.docker_command(arguments);
        let program = describe(&command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        // A client that fails early closes its end; its own error then says more than the broken pipe.
        let written = child.stdin.take().context("no standard input")?.write_all(input);
        let output = output_of(&program, &child.wait_with_output().context("wait for docker")?)?;
        written.with_context(|| format!("write to {program}"))?;
        Ok(output.trim().to_owned())
    }

    /// Stops the engine in order. Its containers stop too, unless it has live-restore.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut dockerd) = self.dockerd.take() else {
            return Ok(());
        };
        dockerd.stop_within(STOP).map(drop)
    }

    /// Kills dockerd; what it started is left as after a crash.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut dockerd) = self.dockerd.take() else {
            return Ok(());
        };
        dockerd.kill()?;
        // containerd dies with its parent, but the next dockerd takes it for alive until init has reaped it.
        let file = self.host.outside("/run/docker/containerd/containerd.pid");
        let Ok(containerd) = fs::read_to_string(&file) else {
            return Ok(());
        };
        eventually(AFTER_KILL, "end of containerd", || {
            Ok(has_ended(containerd.trim()).then_some(()))
        })?;
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    /// Ends engine, containers and host, without waiting for anybody's consent.
    ///
    /// # Errors
    ///
    /// With what is left.
    pub fn close(mut self) -> Result<()> {
        self.end()?;
        self.host.end()
    }

    fn end(&mut self) -> Result<()> {
        self.kill()?;
        for group in ["engine", "docker", podman::PARENT] {
            kill_all(&self.host.cgroup.join(group))?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // dockerd would take its time to stop each container; the host's end is theirs too.
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// The group above those of the containers, in every hierarchy.
fn cgroup_parent(host: &str) -> String {
    format!("/{host}/docker")
}

/// Whether a process is gone, or a zombie that only its parent still knows.
fn has_ended(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
