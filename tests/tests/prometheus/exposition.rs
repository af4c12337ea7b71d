//! What `/metrics` answers to each kind of scraper, judged by promtool and the reference parser.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, Result};
use dtm_tests::daemon::{Dtm, Response};
use flate2::read::GzDecoder;

use crate::judges::{OpenMetricsParser, promtool_finds};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What scrapers and people send as `Accept`, and the Content-Type they must get.
const ASKED: [(&str, Option<&str>, &str); 9] = [
    (
        "Prometheus 2.42",
        Some(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        ),
        OPENMETRICS,
    ),
    (
        "Prometheus 3.16",
        Some(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7,\
             application/openmetrics-text;version=0.0.1;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
        ),
        OPENMETRICS,
    ),
    (
        "Prometheus 3.16 asked for native histograms",
        Some(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
             application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ),
        OPENMETRICS,
    ),
    (
        "Prometheus 3.16 asked for text only",
        Some("text/plain;version=0.0.4;q=0.7,*/*;q=0.6"),
        TEXT,
    ),
    ("curl", Some("*/*"), TEXT),
    ("nobody in particular", None, TEXT),
    (
        "a browser",
        Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        TEXT,
    ),
    (
        "somebody who wants what there is not",
        Some("application/json"),
        TEXT,
    ),
    (
        "somebody who excludes OpenMetrics",
        Some("application/openmetrics-text;version=1.0.0;q=0,text/plain"),
        TEXT,
    ),
];

pub(crate) fn each_scraper_gets_its_format(dtm: &Dtm) -> Result<()> {
    for (who, accept, expected) in ASKED {
        let headers: Vec<_> = accept.into_iter().map(|value| ("Accept", value)).collect();
        let response = dtm.metrics(&headers)?;
        assert_eq!(response.status, 200, "{who}");
        assert_eq!(response.header("Content-Type"), Some(expected), "{who}");
        let ends_as_openmetrics = response.text()?.ends_with("\n# EOF\n");
        assert_eq!(ends_as_openmetrics, expected == OPENMETRICS, "{who}");
    }
    Ok(())
}

pub(crate) fn gzip_goes_to_who_takes_it(dtm: &Dtm) -> Result<()> {
    let ask = |encoding: Option<&str>| -> Result<Response> {
        let headers: Vec<_> = encoding
            .into_iter()
            .map(|value| ("Accept-Encoding", value))
            .collect();
        dtm.metrics(&headers)
    };
    for plain in [None, Some("identity"), Some("br"), Some("gzip;q=0"), Some("")] {
        let response = ask(plain)?;
        assert_eq!(response.header("Content-Encoding"), None, "{plain:?}");
        assert!(response.text()?.starts_with("# "), "{plain:?}");
    }
    for packed in ["gzip", "zstd,gzip", "gzip, deflate, br", "gzip;q=0.5", "GZIP"] {
        let response = ask(Some(packed))?;
        assert_eq!(response.header("Content-Encoding"), Some("gzip"), "{packed}");
        assert_eq!(response.header("Content-Type"), Some(TEXT), "{packed}");
        let mut text = String::new();
        GzDecoder::new(response.body.as_slice())
            .read_to_string(&mut text)
            .with_context(|| format!("unpack {packed}"))?;
        assert_eq!(families(&text), families(ask(None)?.text()?), "{packed}");
    }
    Ok(())
}

/// Values change from scrape to scrape, the families do not.
fn families(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("# TYPE ")).collect()
}

pub(crate) fn promtool_finds_nothing(dtm: &Dtm) -> Result<()> {
    let response = dtm.metrics(&[("Accept", "*/*")])?;
    assert_eq!(promtool_finds(&response.body)?, "");
    Ok(())
}

pub(crate) fn the_strict_parser_finds_nothing(dtm: &Dtm) -> Result<()> {
    let parser = OpenMetricsParser::installed(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let response = dtm.metrics(&[("Accept", "application/openmetrics-text;version=1.0.0")])?;
    assert_eq!(response.header("Content-Type"), Some(OPENMETRICS));
    assert_eq!(parser.finds(&response.body)?, "");
    Ok(())
}

/// Each of these makes some Prometheus throw a whole scrape away.
pub(crate) fn nothing_in_it_kills_a_scrape(dtm: &Dtm) -> Result<()> {
    for accept in ["*/*", "application/openmetrics-text;version=1.0.0"] {
        let response = dtm.metrics(&[("Accept", accept)])?;
        let text = response.text()?;
        assert!(!text.contains('\r'), "{accept}");
        assert!(!text.contains("\n\n"), "{accept}");
        assert!(text.ends_with('\n'), "{accept}");
    }
    Ok(())
}
