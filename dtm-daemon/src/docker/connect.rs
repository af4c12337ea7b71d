//! Reaching the engine.

use std::{fs, io, os::unix::fs::FileTypeExt as _};

use anyhow::{Context as _, bail};
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::config::DockerHost;

/// How long the engine may take to answer, in seconds. An inspect waits until a container's start is through.
const TIMEOUT: u64 = 60;

/// Connects and agrees on the newest version of the API both sides know (1.41 and later).
///
/// # Errors
///
/// Where the engine does not answer.
pub(super) async fn connect(host: &DockerHost) -> anyhow::Result<Docker> {
    let docker = match host {
        DockerHost::Unix(path) => {
            let path = path
                .to_str()
                .context("the path of docker's socket is not UTF-8")?;
            Docker::connect_with_unix(path, TIMEOUT, API_DEFAULT_VERSION)
        }
        DockerHost::Tcp { .. } => Docker::connect_with_http(&host.to_string(), TIMEOUT, API_DEFAULT_VERSION),
    };
    let docker = docker.with_context(|| format!("connect to docker at {host}"))?;
    docker
        .negotiate_version()
        .await
        .with_context(|| format!("ask docker at {host} for its version"))
}

/// Refuses a socket that can never become one: an engine may come later, a directory stays a directory.
///
/// # Errors
///
/// Says what is in the socket's place and what to do.
pub fn preflight(host: &DockerHost) -> anyhow::Result<()> {
    let DockerHost::Unix(path) = host else {
        return Ok(());
    };
    let path = path.display();
    match fs::metadata(path.to_string()) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(metadata) if metadata.is_dir() => bail!(
            "--docker.host: {path} is a directory, not docker's socket; docker makes one when the source of a bind \
             mount is missing: remove it on the host and mount the engine's socket"
        ),
        Ok(_other) => bail!("--docker.host: {path} is not a socket; name the one the engine listens on"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!(
                "--docker.host: {path} may not be read; run dtm as root or as a member of the socket's group"
            )
        }
        // The engine may come later.
        Err(_absent) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::Path};

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
        let _listener = UnixListener::bind(&socket).unwrap();
        let refusal = |path: &Path| preflight(&host(path)).map_err(|error| error.to_string());
        assert!(refusal(&directory).unwrap_err().contains("is a directory"));
        assert!(refusal(&file).unwrap_err().contains("is not a socket"));
        assert_eq!(refusal(&socket), Ok(()));
        assert_eq!(refusal(&absent), Ok(()));
        fs::remove_dir_all(&directory).unwrap();
    }
}
