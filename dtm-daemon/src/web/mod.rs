//! The web server: the metrics, the API, the health checks and the landing page.
//!
//! Nothing but this module knows HTTP. A request only ever asks the tracker; it never makes it do anything.

mod api;
mod connections;
mod landing;
mod listen;
mod negotiation;
mod readings;
mod scrapes;
#[cfg(test)]
mod slow_clients;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    tracker::{TrackerHandle, TrackerStopped},
};
use connections::Limits;
use negotiation::Encoding;
use readings::Readings;
use scrapes::{ScrapeError, Scrapes, Wanted};

pub use listen::bind;

/// What every request can ask.
#[derive(Clone, Debug)]
struct App {
    tracker: TrackerHandle,
    config: Arc<Config>,
    scrapes: Scrapes,
    readings: Readings,
    /// The API's answers are made one after the other, as the scrapes' are.
    turns: Arc<Mutex<()>>,
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
    connections::serve(listeners, router(tracker, config), Limits::default(), cancel).await;
    Ok(())
}

fn router(tracker: TrackerHandle, config: Config) -> Router {
    let config = Arc::new(config);
    let readings = Readings::default();
    // HEAD comes with GET; any other method is answered with 405.
    Router::new()
        .route("/", get(landing::page))
        .route(&config.telemetry_path, get(telemetry))
        .route("/-/healthy", get(|| async { "dtm is healthy\n" }))
        .route("/-/ready", get(ready))
        .merge(api::routes())
        .with_state(App {
            scrapes: Scrapes::start(tracker.clone(), Arc::clone(&config), readings.clone()),
            tracker,
            config,
            readings,
            turns: Arc::default(),
        })
}

async fn ready(State(app): State<App>) -> Response {
    if app.tracker.is_ready() {
        "dtm is ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "dtm is not ready yet\n").into_response()
    }
}

async fn telemetry(State(app): State<App>, headers: HeaderMap) -> Response {
    let media_type = negotiation::media_type(&headers);
    let encoding = negotiation::encoding(&headers);
    let wanted = Wanted {
        format: media_type.format(),
        encoding,
    };
    let body = match app.scrapes.scrape(wanted).await {
        Ok(body) => body,
        Err(ScrapeError::Stopped(stopped)) => return stopping(stopped),
        Err(error @ ScrapeError::Encoding) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
        }
    };
    let headers = [
        (header::CONTENT_TYPE, media_type.content_type()),
        (header::VARY, "Accept, Accept-Encoding"),
    ];
    match encoding {
        Encoding::Identity => (headers, body).into_response(),
        Encoding::Gzip => (headers, [(header::CONTENT_ENCODING, "gzip")], body).into_response(),
    }
}

fn stopping(stopped: TrackerStopped) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response()
}
