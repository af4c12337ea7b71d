//! The API as a program sees it.

use std::time::Duration;

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

/// Every path that has an answer.
pub(super) const PATHS: [&str; 3] = ["/api/v1/containers", "/api/v1/flows", "/api/v1/interfaces"];

/// A place of each kind, and a container that is not covered; names at their worst.
pub(super) fn places() -> Places {
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

/// The fixture, and the same four seconds later.
pub(super) fn snapshots() -> Vec<Snapshot> {
    let mut later = fixture::snapshot();
    later.read_at += Duration::from_secs(4);
    let database = &mut later.containers[0];
    database.interfaces[0].traffic.receive.bytes += 1_000;
    database.interfaces[0].traffic.receive.packets += 2;
    // A network it was not on before, and one on which less was counted before than it had been.
    database
        .interfaces
        .push(fixture::container(7, "").interfaces[0].clone());
    database.interfaces[1].network = "new".into();
    database.interfaces[0].traffic.transmit.bytes -= 1;
    let views = database.views.as_mut().unwrap();
    views.receive.cells[0][1].bytes += 6;
    views.transmit.cells[0][1].packets -= 1;
    views.receive.services[2] += 8;
    views.transmit.syns += 1;
    database.drops[0].packets += 1;
    later.containers[1].views = None;
    later.flows[0].volume.bytes += 10;
    later.flows.remove(1);
    later.lives.get_mut(&3).unwrap().transmit.bytes += 2;
    later.lives.get_mut(&4).unwrap().receive.packets = 0;
    vec![fixture::snapshot(), later]
}

pub(super) fn app(tracker: TrackerHandle) -> Router {
    crate::web::router(tracker, (*fixture::config(&[])).clone())
}

pub(super) async fn call(app: &Router, method: Method, path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (parts.status, parts.headers, body.to_vec())
}

async fn get(app: &Router, path: &str) -> Value {
    let (status, _headers, body) = call(app, Method::GET, path).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice(&body).unwrap()
}

/// What `path` answers with the second time, four seconds after the first.
async fn second(path: &str) -> String {
    let app = app(TrackerHandle::answering_each(snapshots(), places(), true));
    get(&app, path).await;
    let (status, headers, body) = call(&app, Method::GET, path).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    // In the order in which it is sent, which a parsed value has not; a line for each object of a list.
    String::from_utf8(body)
        .unwrap()
        .replace("},{", "},\n{")
        .replace(":[{", ":[\n{")
}

#[tokio::test]
async fn containers_are_as_expected() {
    insta::assert_snapshot!(second("/api/v1/containers").await);
}

#[tokio::test]
async fn flows_are_as_expected() {
    insta::assert_snapshot!(second("/api/v1/flows").await);
}

#[tokio::test]
async fn interfaces_are_as_expected() {
    insta::assert_snapshot!(second("/api/v1/interfaces").await);
}

#[tokio::test]
async fn rates_are_what_came_since_an_earlier_reading() {
    let app = app(TrackerHandle::answering_each(snapshots(), places(), true));
    // A scrape is one.
    let (status, _headers, _body) = call(&app, Method::GET, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let containers = get(&app, "/api/v1/containers").await;
    assert_eq!(containers["seconds"], 4.0);
    let database = &containers["containers"][0];
    let front = &database["networks"][0];
    assert_eq!(front["receive"]["bytes_per_second"], 250.0);
    assert_eq!(front["receive"]["packets_per_second"], 0.5);
    assert_eq!(front["transmit"]["bytes_per_second"], Value::Null);
    assert_eq!(front["transmit"]["packets_per_second"], Value::Null);
    let new = &database["networks"][1];
    assert_eq!(
        (&new["network"], &new["receive"]["bytes"]),
        (&"new".into(), &700.into())
    );
    assert_eq!(new["receive"]["bytes_per_second"], Value::Null);
    let cell = &database["traffic"][1];
    assert_eq!(
        (&cell["scope"], &cell["protocol"]),
        (&"network".into(), &"udp".into())
    );
    assert_eq!(cell["receive"]["bytes_per_second"], 1.5);
    assert_eq!(cell["transmit"]["bytes_per_second"], Value::Null);
    let service = &database["internet"][2];
    assert_eq!(service["service"], "well_known");
    assert_eq!(service["receive_bytes_per_second"], 2.0);
    assert_eq!(service["transmit_bytes_per_second"], 0.0);
    assert_eq!(database["tcp_syns"]["sent_per_second"], 0.25);
    assert_eq!(database["drops"][0]["packets_per_second"], 0.25);
    assert_eq!(containers["containers"][1]["traffic"], Value::Null);
}

#[tokio::test]
async fn flows_and_lives_have_rates_too() {
    let tracker = || TrackerHandle::answering_each(snapshots(), places(), true);
    let once = app(tracker());
    get(&once, "/api/v1/interfaces").await;
    let flows = get(&once, "/api/v1/flows").await;
    assert_eq!(flows["flows"][0]["bytes_per_second"], 2.5);
    assert_eq!(flows["flows"][1]["source"], "db");
    let again = app(tracker());
    get(&again, "/api/v1/flows").await;
    let shown = get(&again, "/api/v1/interfaces").await;
    let [failed, host_end, group] = [0, 1, 2].map(|number| &shown["interfaces"][number]);
    assert_eq!(
        (&failed["receive"], &failed["transmit"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(host_end["transmit"]["bytes_per_second"], 0.5);
    assert_eq!(host_end["receive"]["bytes_per_second"], 0.0);
    assert_eq!(group["receive"]["bytes"], 50);
    assert_eq!(group["receive"]["bytes_per_second"], Value::Null);
}

#[tokio::test]
async fn the_first_answer_has_no_rates() {
    fn without_rates(value: &Value) {
        match value {
            Value::Array(values) => values.iter().for_each(without_rates),
            Value::Object(fields) => {
                for (name, value) in fields {
                    let is_rate = name == "seconds" || name.ends_with("_per_second");
                    assert!(!is_rate || value.is_null(), "{name}: {value}");
                    without_rates(value);
                }
            }
            _ => (),
        }
    }
    for path in PATHS {
        let app = app(TrackerHandle::answering_with(fixture::snapshot(), places(), true));
        without_rates(&get(&app, path).await);
        without_rates(&get(&app, path).await);
    }
}

#[tokio::test]
async fn other_peoples_strings_come_through() {
    let app = app(TrackerHandle::answering_with(fixture::hostile(), places(), true));
    let containers = get(&app, "/api/v1/containers").await;
    let container = &containers["containers"][3];
    assert_eq!(container["name"], fixture::HOSTILE);
    assert_eq!(container["network_mode"], fixture::HOSTILE);
    assert_eq!(container["networks"][0]["network"], fixture::HOSTILE);
    assert_eq!(container["networks"][0]["interface"], fixture::HOSTILE);
    assert!(
        container["image"]
            .as_str()
            .is_some_and(|image| image.len() > 10_000)
    );
    let flows = get(&app, "/api/v1/flows").await;
    assert_eq!(flows["flows"][3]["source"], fixture::HOSTILE);
    assert_eq!(flows["flows"][3]["destination"], fixture::HOSTILE);
    let interfaces = get(&app, "/api/v1/interfaces").await;
    assert_eq!(interfaces["interfaces"][1]["name"], fixture::HOSTILE);
    assert_eq!(interfaces["uncovered"][0]["name"], fixture::HOSTILE);
}

#[tokio::test]
async fn a_matrix_that_is_switched_off_is_said() {
    let mut snapshot = fixture::snapshot();
    snapshot.flows.clear();
    snapshot.status.flow_pairs = None;
    let app = app(TrackerHandle::answering(snapshot, true));
    let (_status, _headers, body) = call(&app, Method::GET, "/api/v1/flows").await;
    let expected = r#"{"seconds":null,"pairs":null,"pairs_limit":null,"flows":[]}"#;
    assert_eq!(String::from_utf8(body).unwrap(), expected);
}

#[tokio::test]
async fn head_has_no_body_and_everything_else_is_refused_in_json() {
    let app = app(TrackerHandle::answering_with(fixture::snapshot(), places(), true));
    for path in PATHS {
        let (status, _, body) = call(&app, Method::HEAD, path).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0), "{path}");
    }
    let methods = [Method::POST, Method::DELETE, Method::OPTIONS];
    let not_allowed = PATHS.into_iter().flat_map(|path| {
        methods
            .clone()
            .map(|method| (method, path, StatusCode::METHOD_NOT_ALLOWED))
    });
    let not_there = [
        (Method::GET, "/api", StatusCode::NOT_FOUND),
        (Method::GET, "/api/v2/interfaces", StatusCode::NOT_FOUND),
        (Method::PUT, "/api/v1/elsewhere", StatusCode::NOT_FOUND),
    ];
    for (method, path, expected) in not_allowed.chain(not_there) {
        let (status, headers, body) = call(&app, method.clone(), path).await;
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
    let app = app(TrackerHandle::stopped());
    for path in PATHS {
        let (status, headers, body) = call(&app, Method::GET, path).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(headers["content-type"], "application/json", "{path}");
        assert_eq!(body, br#"{"error":"the daemon is stopping"}"#, "{path}");
    }
}
