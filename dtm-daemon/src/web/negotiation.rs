//! Which format and which encoding a client wants.

use axum::http::{HeaderMap, HeaderName, header};

use crate::metrics::Format;

/// A format under the name the client knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// OpenMetrics 1.0.0.
    OpenMetrics1_0_0,
    /// The draft of OpenMetrics, for a client that knows nothing later. What dtm writes is the same in both.
    OpenMetrics0_0_1,
    /// Prometheus' text format.
    Text,
}

impl MediaType {
    /// How the body is written.
    pub(super) fn format(self) -> Format {
        match self {
            Self::OpenMetrics1_0_0 | Self::OpenMetrics0_0_1 => Format::OpenMetrics,
            Self::Text => Format::Text,
        }
    }

    /// The header Prometheus 3 chooses its parser by. `escaping` is not in it: every name of dtm is what
    /// Prometheus always took, whichever escaping was asked for.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics1_0_0 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::OpenMetrics0_0_1 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Not at all.
    Identity,
    /// As gzip.
    Gzip,
}

/// The format the client likes best; OpenMetrics where it likes both the same. Whoever wants neither gets the
/// text format: a person with a browser or curl reads it, and nobody is helped by a 406.
pub(super) fn media_type(headers: &HeaderMap) -> MediaType {
    let (mut openmetrics_1_0_0, mut openmetrics_0_0_1, mut text) = (0, 0, 0);
    for choice in choices(headers, &header::ACCEPT) {
        let version = choice.parameter("version");
        let liked = match (choice.name.to_ascii_lowercase().as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => &mut openmetrics_1_0_0,
            ("application/openmetrics-text", Some("0.0.1")) => &mut openmetrics_0_0_1,
            // `*/*` is not looked at: it would have to weigh more than what is named, and nobody sends that.
            ("text/plain", None | Some("0.0.4")) => &mut text,
            _ => continue,
        };
        *liked = choice.quality.max(*liked);
    }
    if openmetrics_1_0_0 > 0 && openmetrics_1_0_0 >= openmetrics_0_0_1.max(text) {
        MediaType::OpenMetrics1_0_0
    } else if openmetrics_0_0_1 > 0 && openmetrics_0_0_1 >= text {
        MediaType::OpenMetrics0_0_1
    } else {
        MediaType::Text
    }
}

/// gzip where the client takes it and does not like an uncompressed body better.
pub(super) fn encoding(headers: &HeaderMap) -> Encoding {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for choice in choices(headers, &header::ACCEPT_ENCODING) {
        match choice.name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = gzip.max(Some(choice.quality)),
            "identity" => identity = identity.max(Some(choice.quality)),
            "*" => any = any.max(Some(choice.quality)),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    if gzip > 0 && gzip >= identity.unwrap_or(0) {
        Encoding::Gzip
    } else {
        Encoding::Identity
    }
}

/// One element of an `Accept` or `Accept-Encoding` header.
struct Choice<'a> {
    name: &'a str,
    parameters: &'a str,
    /// In thousandths, which is as fine as HTTP has it.
    quality: u16,
}

impl<'a> Choice<'a> {
    fn parse(text: &'a str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let choice = Self {
            name: name.trim(),
            parameters,
            quality: 1000,
        };
        let quality = choice.parameter("q").map_or(1000, thousandths);
        Self { quality, ..choice }
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let parameters = self
            .parameters
            .split(';')
            .filter_map(|parameter| parameter.split_once('='));
        let mut values = parameters.filter(|(key, _value)| key.trim().eq_ignore_ascii_case(name));
        values.next().map(|(_key, value)| value.trim().trim_matches('"'))
    }
}

/// `0`, `0.5`, `1.000`. What is no such number was not meant as a wish.
fn thousandths(quality: &str) -> u16 {
    match quality.parse::<f32>() {
        #[expect(clippy::cast_sign_loss, reason = "the range was checked")]
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1000.0).round() as u16,
        _ => 0,
    }
}

/// Every element of every header of that name. What is not text is left out.
fn choices<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Choice<'a>> {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(Choice::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn prometheus_2_and_3_get_openmetrics() {
        for accept in [
            // 2.42
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            // 3.x
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            // 3.x with native histograms
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
             application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.6,*/*;q=0.2",
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8",
            "text/plain, application/openmetrics-text",
        ] {
            let media_type = media_type(&headers(&header::ACCEPT, &[accept]));
            assert_eq!(media_type, MediaType::OpenMetrics1_0_0, "{accept}");
        }
    }

    #[test]
    fn the_draft_is_for_who_knows_only_that() {
        // Prometheus 2.5 to 2.33.
        let accept = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(
            media_type(&headers(&header::ACCEPT, &[accept])),
            MediaType::OpenMetrics0_0_1
        );
    }

    #[test]
    fn everybody_else_gets_text() {
        for accept in [
            &[][..],
            &[""],
            &["*/*"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.8"],
            &["text/plain;version=1.0.0;escaping=allow-utf-8,text/plain;version=0.0.4;q=0.5"],
            &["application/openmetrics-text;version=2.0.0"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=high"],
            &["application/json"],
            &[";;;,,,q=1"],
        ] {
            assert_eq!(
                media_type(&headers(&header::ACCEPT, accept)),
                MediaType::Text,
                "{accept:?}"
            );
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let accept = headers(
            &header::ACCEPT,
            &[
                "text/plain;q=0.5",
                "application/openmetrics-text;version=1.0.0;q=0.6",
            ],
        );
        assert_eq!(media_type(&accept), MediaType::OpenMetrics1_0_0);
    }

    #[test]
    fn gzip_is_for_who_takes_it() {
        for (accepted, expected) in [
            (&["gzip"][..], Encoding::Gzip),
            (&["deflate, GZIP;q=0.5"], Encoding::Gzip),
            (&["*"], Encoding::Gzip),
            (&["br", "x-gzip"], Encoding::Gzip),
            (&["identity;q=0.5, gzip;q=1.0"], Encoding::Gzip),
            (&["identity;q=0, *;q=0.1"], Encoding::Gzip),
            (&[], Encoding::Identity),
            (&[""], Encoding::Identity),
            (&["identity"], Encoding::Identity),
            (&["gzip;q=0"], Encoding::Identity),
            (&["gzip;q=0.000, *"], Encoding::Identity),
            (&["*;q=0"], Encoding::Identity),
            (&["br, zstd"], Encoding::Identity),
            (&["identity, gzip;q=0.5"], Encoding::Identity),
            (&["gzip;q=2"], Encoding::Identity),
        ] {
            assert_eq!(
                encoding(&headers(&header::ACCEPT_ENCODING, accepted)),
                expected,
                "{accepted:?}"
            );
        }
    }
}
