//! Connections: accepted, limited in number and time, and ended together.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How many connections there may be. Further ones wait in the backlog: a descriptor must be left for netlink,
/// Docker and namespaces.
const MAX_CONNECTIONS: usize = 256;

/// How long a connection may be without a whole request: longer than the usual scrape intervals, so that
/// Prometheus keeps its connection from scrape to scrape.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);

/// How long a stop waits for requests under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait when there is no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves `router` on `listeners` until `stop`.
pub(super) async fn serve(listeners: Vec<TcpListener>, router: Router, stop: CancellationToken) {
    let connections = Connections {
        router,
        permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        tasks: TaskTracker::new(),
        stop,
        abort: CancellationToken::new(),
    };
    join_all(
        listeners
            .into_iter()
            .map(|listener| connections.accept_from(listener)),
    )
    .await;
    let Connections { tasks, abort, .. } = connections;
    tasks.close();
    if time::timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
        abort.cancel();
        tasks.wait().await;
    }
}

struct Connections {
    router: Router,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    /// No new requests.
    stop: CancellationToken,
    /// No requests at all any more.
    abort: CancellationToken,
}

impl Connections {
    async fn accept_from(&self, listener: TcpListener) {
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "listening");
        }
        while let Some(accepted) = self.stop.run_until_cancelled(self.accept(&listener)).await {
            match accepted {
                Ok((stream, permit)) => self.spawn(stream, permit),
                // The client left before it was its turn.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.stop.run_until_cancelled(time::sleep(ACCEPT_PAUSE)).await;
                }
            }
        }
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, _client) = listener.accept().await?;
        Ok((stream, permit))
    }

    fn spawn(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        let (stop, abort) = (self.stop.clone(), self.abort.clone());
        self.tasks.spawn(async move {
            let mut connection = pin!(connection);
            let mut stopping = false;
            loop {
                tokio::select! {
                    result = connection.as_mut() => {
                        if let Err(error) = result {
                            tracing::debug!(%error, "a connection broke");
                        }
                        break;
                    }
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = abort.cancelled() => break,
                }
            }
            drop(permit);
        });
    }
}
