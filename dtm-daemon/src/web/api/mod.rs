//! The API: JSON for programs, below `/api/v1`, described in `docs/api.md`. Errors are JSON too.

mod containers;
mod flows;
mod interfaces;
mod rates;
#[cfg(test)]
mod schemas;
#[cfg(test)]
mod tests;

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Json, Response},
    routing::{any, get},
};
use serde_json::json;

use super::{App, readings::Earlier};
use crate::tracker::{Snapshot, TrackerStopped};

/// Every path of it.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/containers", get(containers).fallback(only_get))
        .route("/api/v1/flows", get(flows).fallback(only_get))
        .route("/api/v1/interfaces", get(interfaces).fallback(only_get))
        .route("/api", any(nothing))
        .route("/api/{*rest}", any(nothing))
}

/// What each container moved and lost.
async fn containers(State(app): State<App>) -> Response {
    let _turn = app.turns.lock().await;
    read(&app, |now, earlier| {
        serde_json::to_vec(&containers::Answer::new(now, earlier))
    })
    .await
}

/// Who sends to whom.
async fn flows(State(app): State<App>) -> Response {
    let _turn = app.turns.lock().await;
    read(&app, |now, earlier| {
        serde_json::to_vec(&flows::Answer::new(now, earlier))
    })
    .await
}

/// Where dtm counts and what, and what it cannot count.
async fn interfaces(State(app): State<App>) -> Response {
    let _turn = app.turns.lock().await;
    match app.tracker.places().await {
        Ok(places) => {
            read(&app, move |now, earlier| {
                serde_json::to_vec(&interfaces::Answer::new(&places, now, earlier))
            })
            .await
        }
        Err(stopped) => stopping(stopped),
    }
}

/// The answer that `encode` makes of the counters as they are now, and of an earlier reading for the rates.
async fn read(
    app: &App,
    encode: impl FnOnce(&Snapshot, Option<&Earlier>) -> serde_json::Result<Vec<u8>> + Send + 'static,
) -> Response {
    let now = match app.tracker.snapshot().await {
        Ok(now) => now,
        Err(stopped) => return stopping(stopped),
    };
    let earlier = app.readings.add(&now);
    // As with scrapes: this thread would serve nobody else for as long as it takes.
    let encoded =
        tokio::task::spawn_blocking(move || encode(&now, earlier.as_ref()).context("write the JSON"));
    match encoded.await.context("encode an answer").flatten() {
        Ok(body) => {
            let json = HeaderValue::from_static("application/json");
            plain(([(header::CONTENT_TYPE, json)], body).into_response())
        }
        Err(error) => {
            tracing::error!(
                error = format_args!("{error:#}"),
                "cannot answer a request of the API"
            );
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            refused(status, "cannot encode the answer, see dtm's log")
        }
    }
}

fn stopping(stopped: TrackerStopped) -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, &stopped.to_string())
}

async fn only_get() -> Response {
    let refusal = "this can only be read: use GET";
    let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, refusal);
    let allowed = HeaderValue::from_static("GET,HEAD");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

async fn nothing() -> Response {
    refused(StatusCode::NOT_FOUND, "there is nothing here: see docs/api.md")
}

fn refused(status: StatusCode, error: &str) -> Response {
    plain((status, Json(json!({ "error": error }))).into_response())
}

/// An answer that is as it is now, and nothing but what it says it is.
fn plain(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
