//! The exposition as a whole.

use std::collections::BTreeSet;

use super::*;
use crate::metrics::fixture::{self, HOSTILE};

fn encode(snapshot: Snapshot, format: Format) -> String {
    let process = Process {
        cpu_seconds: 1.5,
        resident_bytes: 12_345_678,
        virtual_bytes: 123_456_789,
        open_fds: 17,
        max_fds: f64::INFINITY,
        start_time: 1_760_000_000.5,
        threads: 5,
    };
    let config = fixture::config(&["--container-labels=team,com.example.none"]);
    let scrape = Scrape::new(
        Arc::new(snapshot),
        config,
        Some(process),
        Duration::from_millis(1),
    );
    scrape.encode(format).unwrap()
}

/// What is built differs from build to build, so it is checked here and left out of the expected texts.
fn without_build(text: &str) -> String {
    let (build, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("dtm_build_info{"));
    assert_eq!(build.len(), 1);
    assert!(build[0].starts_with(&format!(
        "dtm_build_info{{version=\"{}\",",
        crate::config::VERSION
    )));
    assert!(build[0].ends_with("\"} 1"));
    rest.join("\n")
}

#[test]
fn openmetrics_is_as_expected() {
    insta::assert_snapshot!(without_build(&encode(fixture::snapshot(), Format::OpenMetrics)));
}

#[test]
fn text_is_as_expected() {
    insta::assert_snapshot!(without_build(&encode(fixture::snapshot(), Format::Text)));
}

#[test]
fn other_peoples_strings_stay_inside_their_quotes() {
    let escaped = HOSTILE
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    for format in [Format::OpenMetrics, Format::Text] {
        let text = encode(fixture::hostile(), format);
        let sample = format!(
            "dtm_container_network_receive_bytes_total{{container_id=\"000000000004\",name=\"{escaped}\",\
             network=\"{escaped}\",interface=\"{escaped}\"}} 400\n"
        );
        assert!(text.contains(&sample), "{text}");
        let of_labels = format!(
            ",compose_project=\"{escaped}\",compose_service=\"{escaped}\",swarm_service=\"{escaped}\",\
             label_com_example_none=\"\",label_team=\"{escaped}\"}} 1\n"
        );
        assert!(text.contains(&of_labels), "{text}");
        assert_eq!(
            text.matches("\n# EOF").count(),
            usize::from(format == Format::OpenMetrics)
        );
        for line in text.lines() {
            let is_comment = line.starts_with("# HELP ") || line.starts_with("# TYPE ");
            let is_comment = is_comment || line.starts_with("# UNIT ") || line == "# EOF";
            assert!(
                is_comment || line.starts_with("dtm_") || line.starts_with("process_"),
                "{line:?}"
            );
        }
    }
}

#[test]
fn every_family_is_there_even_of_an_empty_host() {
    let text = encode(Snapshot::default(), Format::Text);
    let described: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    let expected: Vec<_> = families::all()
        .map(|family| match family.kind() {
            families::Kind::Counter => format!("{} counter", family.name),
            families::Kind::Gauge => format!("{} gauge", family.name),
            families::Kind::Histogram => format!("{} histogram", family.name),
        })
        .collect();
    assert_eq!(described, expected);
    assert!(text.contains("\ndtm_docker_up 0\n"), "{text}");
    assert!(!text.contains("{}") && !text.contains("\n\n"), "{text}");
}

#[test]
fn names_labels_and_help_keep_the_rules_of_both_formats() {
    let mut names = BTreeSet::new();
    for family in families::all() {
        let name = family.name;
        assert!(names.insert(name), "{name} is there twice");
        assert!(
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{name}"
        );
        assert!(name.starts_with("dtm_") || name.starts_with("process_"), "{name}");
        let reserved = ["_bucket", "_count", "_sum", "_created"];
        assert!(!reserved.iter().any(|suffix| name.ends_with(suffix)), "{name}");
        assert!(
            !family.help.contains(['"', '\\', '\n']) && family.help.ends_with('.'),
            "{name}"
        );
        let labels: BTreeSet<_> = family.labels.iter().collect();
        assert_eq!(labels.len(), family.labels.len(), "{name}");
    }
}

#[test]
fn no_series_is_there_twice() {
    for format in [Format::OpenMetrics, Format::Text] {
        let text = encode(fixture::hostile(), format);
        let mut series = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (labels, _value) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(labels.to_owned()), "{labels}");
        }
    }
}

#[test]
fn gauges_of_an_ended_container_go_and_its_counters_stay() {
    let text = encode(fixture::snapshot(), Format::Text);
    let of_gone: Vec<_> = text
        .lines()
        .filter(|line| line.contains("name=\"gone\""))
        .collect();
    let views = 4 * 28 + 2 * 4 + 2;
    // Both ways of its interface, and what the device itself dropped.
    // Segments sent, sent again, resets; connections by role and by failure; listeners.
    let tcp = 4 + 2 + 4 + 2;
    let is_part = |line: &&str| {
        ["_bucket{", "_sum{", "_count{"]
            .iter()
            .any(|part| line.contains(part))
    };
    let (histograms, counters): (Vec<&str>, Vec<&str>) = of_gone.into_iter().partition(is_part);
    assert_eq!(counters.len(), 6 + 2 + views + tcp);
    assert!(counters.iter().all(|line| line.contains("_total{")));
    assert_eq!(histograms.len(), 3 * (dtm_common::tcp::BUCKETS + 2));
}

#[test]
fn a_process_that_cannot_be_read_is_left_out_and_said() {
    let snapshot = Arc::new(fixture::snapshot());
    let scrape = Scrape::new(snapshot, fixture::config(&[]), None, Duration::ZERO);
    let text = scrape.encode(Format::Text).unwrap();
    assert!(text.contains("\n# TYPE process_open_fds gauge\n# HELP"), "{text}");
    assert!(
        text.contains("dtm_scrape_collector_success{collector=\"process\"} 0\n"),
        "{text}"
    );
}

#[test]
fn the_real_process_is_exposed() {
    let text = super::encode(Arc::default(), fixture::config(&[]), Format::Text).unwrap();
    assert!(text.contains("\nprocess_open_fds "), "{text}");
    assert!(
        text.contains("dtm_scrape_collector_success{collector=\"process\"} 1\n"),
        "{text}"
    );
}
