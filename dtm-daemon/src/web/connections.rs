//! Connections: accepted, limited in number and time, and ended together.

use std::{
    io,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::stream::{Progress, Watched};

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many connections there may be; each may hold a whole answer. A further one ends the one that has stood still
    /// for longest, so that no number of slow clients keeps others out.
    pub(super) connections: usize,
    /// How long a connection may be without a whole request: longer than the usual scrape intervals, so that
    /// Prometheus keeps its connection from scrape to scrape.
    pub(super) request: Duration,
    /// How long a client may take for an answer, however slowly it reads.
    pub(super) answer: Duration,
    /// How long a stop waits for requests under way.
    pub(super) stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            request: Duration::from_secs(65),
            answer: Duration::from_secs(30),
            stop: Duration::from_secs(3),
        }
    }
}

/// How long to wait when there is no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves `router` on `listeners` until `stop`.
pub(super) async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let connections = Connections {
        router,
        limits,
        start: Instant::now(),
        open: Mutex::default(),
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
    if time::timeout(limits.stop, tasks.wait()).await.is_err() {
        abort.cancel();
        tasks.wait().await;
    }
}

struct Connections {
    router: Router,
    limits: Limits,
    start: Instant,
    /// Those that may still be open, with what ends them.
    open: Mutex<Vec<(Progress, CancellationToken)>>,
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
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _client)) => self.spawn(stream),
                // The client left before it was its turn.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.stop.run_until_cancelled(time::sleep(ACCEPT_PAUSE)).await;
                }
            }
        }
    }

    /// Takes in a connection, in the place of another where there are too many. What ends it.
    fn enter(&self, progress: &Progress) -> CancellationToken {
        let end = self.abort.child_token();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that is over has ended its token.
        open.retain(|(_progress, end)| !end.is_cancelled());
        if open.len() >= self.limits.connections {
            let stillest = open
                .iter()
                .enumerate()
                .min_by_key(|(_at, (progress, _end))| progress.last());
            if let Some((at, _stillest)) = stillest {
                tracing::debug!("too many connections, ending the one that stands still");
                open.swap_remove(at).1.cancel();
            }
        }
        open.push((progress.clone(), end.clone()));
        end
    }

    fn spawn(&self, stream: TcpStream) {
        let progress = Progress::now(self.start);
        let end = self.enter(&progress);
        let stream = Watched::new(stream, progress, self.limits.answer);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.request)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            // However it ends, its place is free.
            let _place = end.drop_guard_ref();
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
                    () = end.cancelled() => break,
                }
            }
        });
    }
}
