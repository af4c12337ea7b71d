//! The web server: the metrics, the health checks and the landing page.
//!
//! Nothing but this module knows HTTP. A request only ever asks the tracker; it never makes it do anything.

mod connections;
mod landing;
mod listen;
mod negotiation;
#[cfg(test)]
mod tests;

use std::{io::Write as _, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    metrics,
    tracker::{Snapshot, TrackerHandle, TrackerStopped},
};
use negotiation::{Encoding, MediaType};

pub use listen::bind;

/// What every request can ask.
#[derive(Clone, Debug)]
struct App {
    tracker: TrackerHandle,
    config: Arc<Config>,
}

/// Serves on `listeners` until `cancel` is cancelled, then lets requests under way finish.
///
/// # Errors
///
/// None: one bad connection ends only itself.
pub async fn serve(
    listeners: Vec<TcpListener>,
    tracker: TrackerHandle,
    config: Config,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    connections::serve(listeners, router(tracker, config), cancel).await;
    Ok(())
}

fn router(tracker: TrackerHandle, config: Config) -> Router {
    let config = Arc::new(config);
    // HEAD comes with GET; any other method is answered with 405.
    Router::new()
        .route("/", get(landing::page))
        .route(&config.telemetry_path, get(telemetry))
        .route("/-/healthy", get(|| async { "dtm is healthy\n" }))
        .route("/-/ready", get(ready))
        .with_state(App { tracker, config })
}

async fn ready(State(app): State<App>) -> Response {
    if app.tracker.is_ready() {
        "dtm is ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "dtm is not ready yet\n").into_response()
    }
}

async fn telemetry(State(app): State<App>, headers: HeaderMap) -> Response {
    let snapshot = match app.tracker.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(stopped) => return stopping(stopped),
    };
    let media_type = negotiation::media_type(&headers);
    let encoding = negotiation::encoding(&headers);
    // A thousand containers take milliseconds, in which this thread would serve nobody else.
    let encoded =
        tokio::task::spawn_blocking(move || encode(snapshot, app.config, media_type, encoding)).await;
    match encoded.context("encode the metrics").flatten() {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(error = format_args!("{error:#}"), "cannot answer a scrape");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot encode the metrics, see dtm's log\n",
            )
                .into_response()
        }
    }
}

fn encode(
    snapshot: Arc<Snapshot>,
    config: Arc<Config>,
    media_type: MediaType,
    encoding: Encoding,
) -> anyhow::Result<Response> {
    let text = metrics::encode(snapshot, config, media_type.format()).context("encode the metrics")?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, media_type.content_type())
        .header(header::VARY, "Accept, Accept-Encoding");
    let response = match encoding {
        Encoding::Identity => response.body(Body::from(text)),
        Encoding::Gzip => {
            let mut gzip = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
            gzip.write_all(text.as_bytes()).context("compress the metrics")?;
            let compressed = gzip.finish().context("compress the metrics")?;
            response
                .header(header::CONTENT_ENCODING, "gzip")
                .body(Body::from(compressed))
        }
    };
    response.context("build the response")
}

fn stopping(stopped: TrackerStopped) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response()
}
