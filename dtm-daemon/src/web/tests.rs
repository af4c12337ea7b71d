//! The routes as a client sees them, and connections that misbehave.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request},
};
use flate2::read::GzDecoder;
use tower::ServiceExt as _;

use super::*;
use crate::metrics::fixture;

fn app(ready: bool) -> Router {
    router(
        TrackerHandle::answering(fixture::snapshot(), ready),
        (*fixture::config(&[])).clone(),
    )
}

async fn call(
    app: Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        to_bytes(body, usize::MAX).await.unwrap().to_vec(),
    )
}

#[tokio::test]
async fn metrics_come_in_the_format_asked_for() {
    for (accept, content_type, end) in [
        (
            "*/*",
            "text/plain; version=0.0.4; charset=utf-8",
            "process_start_time_seconds",
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "# EOF",
        ),
        (
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text; version=0.0.1; charset=utf-8",
            "# EOF",
        ),
    ] {
        let (status, headers, body) = call(app(true), Method::GET, "/metrics", &[("accept", accept)]).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], content_type);
        assert_eq!(headers["vary"], "Accept, Accept-Encoding");
        assert!(!headers.contains_key("content-encoding"));
        let body = String::from_utf8(body).unwrap();
        assert!(body.lines().last().unwrap().starts_with(end), "{body}");
        assert!(body.contains("name=\"db\""), "{body}");
    }
}

#[tokio::test]
async fn metrics_are_compressed_for_who_takes_it() {
    let (status, headers, body) =
        call(app(true), Method::GET, "/metrics", &[("accept-encoding", "gzip")]).await;
    assert_eq!(
        (status, &headers["content-encoding"]),
        (StatusCode::OK, &"gzip".parse().unwrap())
    );
    let mut text = String::new();
    GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("name=\"db\""), "{text}");
}

#[tokio::test]
async fn readiness_is_the_trackers() {
    for (ready, expected) in [(true, StatusCode::OK), (false, StatusCode::SERVICE_UNAVAILABLE)] {
        assert_eq!(call(app(ready), Method::GET, "/-/ready", &[]).await.0, expected);
        assert_eq!(
            call(app(ready), Method::GET, "/-/healthy", &[]).await.0,
            StatusCode::OK
        );
        assert_eq!(
            call(app(ready), Method::GET, "/metrics", &[]).await.0,
            StatusCode::OK
        );
    }
}

#[tokio::test]
async fn head_has_no_body_and_other_methods_are_refused() {
    for path in ["/", "/metrics", "/-/healthy", "/-/ready"] {
        let (status, _, body) = call(app(true), Method::HEAD, path, &[]).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0), "{path}");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let (status, headers, _) = call(app(true), method, path, &[]).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(headers["allow"], "GET,HEAD", "{path}");
        }
    }
    assert_eq!(
        call(app(true), Method::GET, "/elsewhere", &[]).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_stopped_tracker_is_said_not_waited_for() {
    for path in ["/", "/metrics"] {
        let app = router(TrackerHandle::stopped(), (*fixture::config(&[])).clone());
        let (status, _, body) = call(app, Method::GET, path, &[]).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, b"the daemon is stopping\n");
    }
}

#[tokio::test]
async fn the_metrics_move_with_their_flag() {
    let config = fixture::config(&["--web.telemetry-path=/custom"]);
    let app = router(
        TrackerHandle::answering(fixture::snapshot(), true),
        (*config).clone(),
    );
    assert_eq!(
        call(app.clone(), Method::GET, "/custom", &[]).await.0,
        StatusCode::OK
    );
    assert_eq!(
        call(app.clone(), Method::GET, "/metrics", &[]).await.0,
        StatusCode::NOT_FOUND
    );
    let (_, headers, page) = call(app, Method::GET, "/", &[]).await;
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    assert!(String::from_utf8(page).unwrap().contains("href=\"/custom\""));
}

/// A server of the fixture on a free port of this machine.
async fn start() -> (
    SocketAddr,
    CancellationToken,
    tokio::task::JoinHandle<anyhow::Result<()>>,
) {
    let config = fixture::config(&["--web.listen-address=127.0.0.1:0"]);
    let listeners = bind(&config).await.unwrap();
    let address = listeners[0].local_addr().unwrap();
    let tracker = TrackerHandle::answering(fixture::snapshot(), true);
    let cancel = CancellationToken::new();
    let server = tokio::spawn(serve(listeners, tracker, (*config).clone(), cancel.clone()));
    (address, cancel, server)
}

/// What the server answers to `request`, up to the end of the connection.
fn answer(stream: &mut TcpStream, request: &str) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stall_hold_nobody_up_and_a_stop_ends_them() {
    let (address, cancel, server) = start().await;
    let stalled: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    let mut stream = TcpStream::connect(address).unwrap();
    let text = answer(
        &mut stream,
        "GET /metrics HTTP/1.1\r\nHost: dtm\r\nConnection: close\r\n\r\n",
    );
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("name=\"db\""),
        "{text}"
    );

    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(20), server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(address).is_err(), "the port is free again");
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_idle_connections_at_once() {
    let (address, cancel, server) = start().await;
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /-/healthy HTTP/1.1\r\nHost: dtm\r\n\r\n")
        .unwrap();
    let mut buffer = [0; 1024];
    let length = stream.read(&mut buffer).unwrap();
    assert!(buffer[..length].starts_with(b"HTTP/1.1 200 OK\r\n"));
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(2), server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(stream.read(&mut buffer).unwrap(), 0);
}
