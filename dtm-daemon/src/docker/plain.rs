//! An answer of the engine as it is, for where bollard cannot read it.

use std::{future::poll_fn, pin::pin};

use anyhow::{Context as _, ensure};
use hyper::{
    Request,
    body::Body as _,
    client::conn::http1::handshake,
    header::{ACCEPT, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::connect::ANSWER_WITHIN;
use crate::config::DockerHost;

/// The longest answer worth reading: ten thousand containers with many labels.
const LONGEST: usize = 128 << 20;

/// Asks for `path` on a connection of its own.
pub(super) async fn get(host: &DockerHost, path: &str) -> anyhow::Result<Vec<u8>> {
    let answer = async {
        match host {
            DockerHost::Unix(socket) => ask(UnixStream::connect(socket).await?, "docker", path).await,
            DockerHost::Tcp { host, port } => {
                // A name or an address: brackets are for URLs.
                let name = host.trim_matches(['[', ']']);
                let stream = TcpStream::connect((name, *port)).await?;
                ask(stream, &format!("{host}:{port}"), path).await
            }
        }
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
    answer.context("docker is silent")?
}

async fn ask<S>(stream: S, host: &str, path: &str) -> anyhow::Result<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .body(String::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        ensure!(
            response.status().is_success(),
            "docker responded with status {}",
            response.status()
        );
        let mut body = pin!(response.into_body());
        let mut answer = Vec::new();
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            if let Ok(data) = frame?.into_data() {
                answer.extend_from_slice(&data);
            }
            ensure!(
                answer.len() <= LONGEST,
                "the answer is longer than {LONGEST} bytes"
            );
        }
        Ok(answer)
    };
    // The connection does the reading and writing; it ends without an error once the answer is through.
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        closed = connection => {
            closed?;
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use super::*;

    /// Answers one request on a socket of its own, and returns what was asked.
    async fn answering(name: &str, answer: &'static str) -> (anyhow::Result<Vec<u8>>, String) {
        let path: PathBuf = std::env::temp_dir().join(format!("dtm-plain-{name}-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _address) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..read].to_vec()).unwrap()
        });
        let got = get(&DockerHost::Unix(path.clone()), "/v1.41/containers/json?all=true").await;
        std::fs::remove_file(&path).unwrap();
        (got, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_body_in_chunks_comes_whole() {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[{}\r\n1\r\n]\r\n0\r\n\r\n";
        let (got, asked) = answering("chunks", answer).await;
        assert_eq!(got.unwrap(), b"[{}]");
        assert!(
            asked.starts_with("GET /v1.41/containers/json?all=true HTTP/1.1\r\n"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_or_a_refusal_is_an_error() {
        let (cut, _asked) = answering("cut", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[{}").await;
        assert!(cut.is_err());
        let (refused, _asked) =
            answering("refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert!(refused.unwrap_err().to_string().contains("403"));
    }
}
