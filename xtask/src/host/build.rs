//! Builds by the engine's own `BuildKit`, without the client plugin that usually asks for them.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tar::{Builder, Header};

use super::{Engine, http};

/// How long a build may take.
const BUILD: Duration = Duration::from_mins(2);

impl Engine {
    /// Has the engine's `BuildKit` build `dockerfile`, whatever it has in its cache.
    ///
    /// # Errors
    ///
    /// With what the engine says went wrong.
    pub fn buildkit(&self, dockerfile: &str) -> Result<()> {
        let mut context = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(dockerfile.len() as u64);
        context
            .append_data(&mut header, "Dockerfile", dockerfile.as_bytes())
            .context("make the build's context")?;
        let context = context.into_inner().context("finish the build's context")?;
        let socket = UnixStream::connect(self.socket_outside()).context("connect to the engine")?;
        socket.set_read_timeout(Some(BUILD)).context("limit the wait")?;
        let answer = http::post(
            socket,
            "/build?version=2&nocache=1",
            "application/x-tar",
            &context,
        )?;
        let (status, body) = (answer.status, &answer.body);
        ensure!(status == 200, "the build was answered with {status}: {body}");
        // It answers with one object a line, and with 200 before it knows how it will end.
        if let Some(error) = body.lines().find(|line| line.contains("\"errorDetail\"")) {
            bail!("the build failed: {error}");
        }
        Ok(())
    }
}
