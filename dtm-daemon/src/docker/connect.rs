//! Reaching the engine.

use std::{fs, future::Future, io, os::unix::fs::FileTypeExt as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Container, podman};
use crate::config::DockerHost;

/// How long the engine may take over an answer. An inspect waits until a start of that container is through.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// After this long without a word over TCP the kernel asks whether the other side is still there, this often.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// The longest reason worth a log line: whatever listens there may answer with a whole page.
const REASON_LENGTH: usize = 300;

/// An engine that answered.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    /// Where.
    pub(super) host: DockerHost,
    /// The connection, at the newest version of the API that both sides know.
    pub(super) docker: Docker,
    /// What the engine calls its version.
    pub(super) version: Arc<str>,
    /// What it calls itself; empty where it does not say.
    pub(super) name: String,
    /// It only speaks as Docker does.
    pub(super) is_podman: bool,
}

impl Engine {
    /// What its answer means, if Docker had given it.
    pub(super) fn own(&self, container: Container) -> Container {
        if self.is_podman {
            podman::container(container)
        } else {
            container
        }
    }
}

/// Connects and agrees on a version of the API.
///
/// # Errors
///
/// Where no engine answers.
pub(super) async fn connect(host: &DockerHost) -> anyhow::Result<Engine> {
    let docker = match host {
        DockerHost::Unix(path) => {
            let path = path
                .to_str()
                .context("the path of docker's socket is not UTF-8")?;
            Docker::connect_with_unix(path, ANSWER_WITHIN.as_secs(), API_DEFAULT_VERSION)
        }
        DockerHost::Tcp { host, port } => over_tcp(format!("http://{host}:{port}")),
    };
    let docker = docker.with_context(|| format!("connect to docker at {host}"))?;
    let agreed = answered(docker.negotiate_version()).await;
    let docker = agreed.with_context(|| format!("ask docker at {host} for its API version"))?;
    let docker = with_version(docker);
    let version = answered(docker.version())
        .await
        .context("ask docker for its version")?;
    let is_podman = podman::is_podman(&version);
    // The first is the engine itself, the others are what it runs containers with.
    let name = version.components.into_iter().flatten().next();
    Ok(Engine {
        host: host.clone(),
        docker,
        is_podman,
        version: version.version.unwrap_or_default().into(),
        name: name.map(|component| component.name).unwrap_or_default(),
    })
}

/// A client whose connections do not outlive the other side unnoticed: a stream of events may be silent for days.
fn over_tcp(address: String) -> Result<Docker, Error> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(ANSWER_WITHIN));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    // Kept connections would be found dead when the engine was restarted.
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector);
    let transport = move |request: BollardRequest| {
        let client = client.clone();
        async move { client.request(request).await.map_err(Error::from) }
    };
    let seconds = ANSWER_WITHIN.as_secs();
    Docker::connect_with_custom_transport(transport, Some(address), seconds, API_DEFAULT_VERSION)
}

/// Names the agreed version in every request: bollard leaves it out, and the engine would answer in its newest.
fn with_version(docker: Docker) -> Docker {
    let version = docker.client_version();
    docker.with_request_modifier(move |mut request| {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = parts
            .path_and_query
            .and_then(|path| format!("/v{version}{path}").parse().ok());
        if let Ok(uri) = hyper::Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request
    })
}

/// Waits for a whole answer, for as long as an engine may take.
pub(super) async fn answered<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_WITHIN, answer)
        .await
        .unwrap_or(Err(Error::RequestTimeoutError))
}

/// The reason of an error in one line: what was tried, and what went wrong at the very bottom.
pub(super) fn reason(error: &anyhow::Error) -> String {
    let (tried, cause) = (error.to_string(), error.root_cause().to_string());
    let text = if tried == cause {
        tried
    } else {
        format!("{tried}: {cause}")
    };
    let line = text.split(|letter: char| letter.is_whitespace() || letter.is_control());
    let line: Vec<_> = line.filter(|word| !word.is_empty()).collect();
    let line = line.join(" ");
    match line.char_indices().nth(REASON_LENGTH) {
        Some((end, _letter)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Refuses a socket that waiting cannot help: an engine may come later, a directory stays a directory.
///
/// # Errors
///
/// Says in one line what is in the socket's place and what to do.
pub fn preflight(host: &DockerHost) -> anyhow::Result<()> {
    let DockerHost::Unix(path) = host else {
        return Ok(());
    };
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => knock(path),
        Ok(metadata) if metadata.is_dir() => bail!(
            "--docker.host: {shown} is a directory, not docker's socket; docker makes one where the source of a bind \
             mount is missing: remove it on the host, start docker, and make the container again"
        ),
        Ok(_other) => bail!("--docker.host: {shown} is not a socket; name the one docker listens on"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(forbidden(path)),
        // The engine may come later.
        Err(_absent) => Ok(()),
    }
}

/// Asks whether the socket may be used, without waiting for an engine that is too busy to accept.
fn knock(path: &Path) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).context("make a unix socket")?;
    let address = SockAddr::unix(path).with_context(|| format!("--docker.host: {}", path.display()))?;
    match socket.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(forbidden(path)),
        // Nobody listens yet, or not fast enough.
        Ok(()) | Err(_) => Ok(()),
    }
}

fn forbidden(path: &Path) -> anyhow::Error {
    anyhow!(
        "--docker.host: {} may not be used by this user; run dtm as root",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn host(path: &Path) -> DockerHost {
        DockerHost::Unix(path.to_owned())
    }

    #[test]
    fn only_what_can_never_become_a_socket_is_refused() {
        let directory = std::env::temp_dir().join(format!("dtm-preflight-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (file, socket, absent) = (
            directory.join("file"),
            directory.join("socket"),
            directory.join("absent"),
        );
        fs::write(&file, []).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let refusal = |path: &Path| preflight(&host(path)).map_err(|error| error.to_string());
        assert!(refusal(&directory).unwrap_err().contains("is a directory"));
        assert!(refusal(&file).unwrap_err().contains("is not a socket"));
        assert_eq!(refusal(&socket), Ok(()));
        drop(listener);
        assert_eq!(refusal(&socket), Ok(()), "an engine that is not running yet");
        assert_eq!(refusal(&absent), Ok(()));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let error =
            anyhow!("<html>\n<body>\u{1b}[31m{}", "x".repeat(2_000)).context("list docker's containers");
        let reason = reason(&error);
        assert!(
            reason.starts_with("list docker's containers: <html> <body> [31mxxx"),
            "{reason}"
        );
        assert_eq!(reason.chars().count(), REASON_LENGTH + 1);
    }

    #[test]
    fn a_reason_names_what_is_at_the_bottom() {
        let error = anyhow!(io::Error::other("no such file"))
            .context("client error")
            .context("connect to docker");
        assert_eq!(reason(&error), "connect to docker: no such file");
    }
}
