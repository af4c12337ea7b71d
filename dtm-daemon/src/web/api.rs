//! The API: JSON for programs, below `/api/v1`, described in `docs/api.md`. Errors are JSON too.

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Json, Response},
    routing::{any, get},
};
use serde_json::json;

use super::App;

/// Every path of it.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/interfaces", get(interfaces).fallback(only_get))
        .route("/api", any(nothing))
        .route("/api/{*rest}", any(nothing))
}

/// Where dtm counts, and what it cannot count.
async fn interfaces(State(app): State<App>) -> Response {
    match app.tracker.places().await {
        Ok(places) => plain((StatusCode::OK, Json(&*places)).into_response()),
        Err(stopped) => refused(StatusCode::SERVICE_UNAVAILABLE, &stopped.to_string()),
    }
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

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::{HeaderMap, Method, Request},
    };
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        metrics::fixture,
        tracker::{PlaceSnapshot, Places, TrackerHandle, UncoveredSnapshot},
    };

    const PATH: &str = "/api/v1/interfaces";

    /// A place of each kind, and a container that is not covered; names at their worst.
    fn places() -> Places {
        let host_end = PlaceSnapshot {
            name: Some(fixture::HOSTILE.into()),
            container_id: Some("0123456789ab".into()),
            network: Some(fixture::HOSTILE.into()),
            driver: Some("bridge".into()),
            interface: Some("eth0".into()),
            hook: "host_end",
            mode: "tcx",
            state: "named",
            namespace: Some("host".into()),
            ifindex: Some(42),
            device: Some("veth0a1b2c3".into()),
            since: Some(1_760_000_000.25),
            preceded_by: Some("tcx program 7".into()),
            generation: Some(3),
            ..PlaceSnapshot::default()
        };
        let group = PlaceSnapshot {
            name: Some("proxy".into()),
            container_id: Some("1123456789ab".into()),
            network: Some("host".into()),
            driver: Some("host".into()),
            interface: Some("".into()),
            hook: "cgroup",
            mode: "cgroup",
            state: "named",
            cgroup: Some("/system.slice/docker-1123.scope".into()),
            since: Some(1_760_000_001.0),
            generation: Some(4),
            ..PlaceSnapshot::default()
        };
        let failed = PlaceSnapshot {
            hook: "host_end",
            mode: "none",
            state: "failed",
            namespace: Some("net:[4026532301]".into()),
            ifindex: Some(5),
            device: Some("veth1".into()),
            since: Some(1_760_000_002.0),
            reason: Some("tcx"),
            generation: Some(5),
            ..PlaceSnapshot::default()
        };
        Places {
            interfaces: vec![failed, host_end, group],
            uncovered: vec![UncoveredSnapshot {
                name: fixture::HOSTILE.into(),
                container_id: "2123456789ab".into(),
                reason: "macvlan_network",
                advice: "do something",
            }],
        }
    }

    async fn call(tracker: TrackerHandle, method: Method, path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
        let app = super::super::router(tracker, (*fixture::config(&[])).clone());
        let request = Request::builder().method(method).uri(path);
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, body.to_vec())
    }

    fn tracker() -> TrackerHandle {
        TrackerHandle::answering_with(fixture::snapshot(), places(), true)
    }

    #[tokio::test]
    async fn places_are_json_whatever_they_are_called() {
        let (status, headers, body) = call(tracker(), Method::GET, PATH).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["cache-control"], "no-store");
        let read: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["interfaces"][1]["name"], fixture::HOSTILE);
        // In the order in which it is sent, which a parsed value has not.
        let text = String::from_utf8(body).unwrap().replace(",\"", ",\n\"");
        insta::assert_snapshot!("interfaces_are_as_expected", text);
    }

    #[tokio::test]
    async fn head_has_no_body_and_everything_else_is_refused_in_json() {
        let (status, _, body) = call(tracker(), Method::HEAD, PATH).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        for (method, path, expected) in [
            (Method::POST, PATH, StatusCode::METHOD_NOT_ALLOWED),
            (Method::DELETE, PATH, StatusCode::METHOD_NOT_ALLOWED),
            (Method::OPTIONS, PATH, StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/api", StatusCode::NOT_FOUND),
            (Method::GET, "/api/v2/interfaces", StatusCode::NOT_FOUND),
            (Method::PUT, "/api/v1/elsewhere", StatusCode::NOT_FOUND),
        ] {
            let (status, headers, body) = call(tracker(), method.clone(), path).await;
            assert_eq!(status, expected, "{method} {path}");
            assert_eq!(headers["content-type"], "application/json", "{method} {path}");
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert!(body["error"].is_string(), "{body}");
            let allowed = (expected == StatusCode::METHOD_NOT_ALLOWED).then_some("GET,HEAD");
            assert_eq!(
                headers.get("allow").map(|value| value.to_str().unwrap()),
                allowed,
                "{method} {path}"
            );
        }
    }

    #[tokio::test]
    async fn a_stopped_tracker_is_said_in_json() {
        let (status, headers, body) = call(TrackerHandle::stopped(), Method::GET, PATH).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(body, br#"{"error":"the daemon is stopping"}"#);
    }
}
