//! The landing page: what runs here, how it fares, and where everything is.

use axum::{
    extract::State,
    http::header,
    response::{Html, IntoResponse as _, Response},
};

use super::{App, stopping};
use crate::{
    config::{REVISION, VERSION},
    docker::ContainerState,
    tracker::Status,
};

pub(super) async fn page(State(app): State<App>) -> Response {
    let snapshot = match app.tracker.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(stopped) => return stopping(stopped),
    };
    let html = render(
        &snapshot.status,
        app.tracker.is_ready(),
        &app.config.telemetry_path,
    );
    // The page loads nothing and runs nothing, so nothing may.
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(html)).into_response()
}

fn render(status: &Status, ready: bool, telemetry_path: &str) -> String {
    let docker = match (status.docker_up, &*status.docker_version) {
        (false, _) => "does not answer".to_owned(),
        (true, "") => "answers".to_owned(),
        (true, version) => format!("answers, version {}", escape(version)),
    };
    let running = status
        .containers
        .get(&ContainerState::Running)
        .copied()
        .unwrap_or_default();
    let attached = status
        .interfaces
        .iter()
        .filter(|((_state, mode), _count)| *mode != "none");
    let attached: u64 = attached.map(|(_, count)| count).sum();
    include_str!("landing.html")
        .replace("{version}", VERSION)
        .replace("{revision}", REVISION)
        .replace("{ready}", if ready { "ready" } else { "starting" })
        .replace("{running}", &running.to_string())
        .replace("{attached}", &attached.to_string())
        .replace("{telemetry_path}", telemetry_path)
        // Last: it is somebody else's text.
        .replace("{docker}", &docker)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::fixture;

    #[test]
    fn it_shows_the_state_and_fills_every_gap() {
        let html = render(&fixture::snapshot().status, true, "/custom");
        for part in [
            "ready",
            VERSION,
            "answers, version 29.0.0",
            "<dd>2</dd>",
            "href=\"/custom\"",
            "href=\"/-/ready\"",
        ] {
            assert!(html.contains(part), "{part} is missing in {html}");
        }
        let body = html.split_once("<body>").unwrap().1;
        assert!(!body.contains(['{', '}']), "{body}");
    }

    #[test]
    fn what_docker_says_is_only_text() {
        let status = Status {
            docker_up: true,
            docker_version: "<script>\"&{version}".into(),
            ..Status::default()
        };
        let html = render(&status, false, "/metrics");
        assert!(
            html.contains("&lt;script&gt;&quot;&amp;{version}") && !html.contains("<script>"),
            "{html}"
        );
        assert!(html.contains("starting"));
    }
}
