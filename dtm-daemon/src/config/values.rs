//! Values that need more than a type of their own.

use std::{path::PathBuf, time::Duration};

use dtm_common::uplinks::NAME_BYTES;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The longest time that series of ended containers may stay: beyond it memory grows for nobody's use.
const LONGEST_LINGER: Duration = Duration::from_hours(24);

/// `5m`, `1h 30m`, `300s`, or a number of seconds.
pub(super) fn linger(text: &str) -> Result<Duration, String> {
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_unreadable| "expected a duration such as 5m, 300s or 90 (seconds)".to_owned())?,
    };
    if duration > LONGEST_LINGER {
        Err("at most 24h".to_owned())
    } else {
        Ok(duration)
    }
}

/// A level, or a filter as tracing-subscriber takes it.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let bare = !text.contains(['=', ',', '[']);
    // A filter of one bare word would be a target: a misspelt level would silently log nothing else.
    let is_level = text.parse::<LevelFilter>().is_ok() && !text.is_empty();
    if bare && !is_level || text.parse::<usize>().is_ok() {
        return Err(
            "expected error, warn, info, debug, trace or a filter such as info,dtm_daemon=debug".to_owned(),
        );
    }
    match EnvFilter::builder().parse(text) {
        Ok(_filter) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The path of the metrics.
pub(super) fn telemetry_path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(plain) {
        return Err("expected a path such as /metrics, of letters, digits and / - _ . ~".to_owned());
    }
    // Of these, `/` is the landing page, and the rest belongs to the health checks and the API.
    if text == "/" || ["/-", "/api"].iter().any(|taken| is_below(text, taken)) {
        return Err("dtm serves something else there: choose another path, such as /metrics".to_owned());
    }
    Ok(text.to_owned())
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The name of an interface that may not be there yet: what the kernel takes for one (`dev_valid_name`).
pub(super) fn interface_name(text: &str) -> Result<String, String> {
    let is_odd = |byte: u8| matches!(byte, b'/' | b':' | b' ' | 0x09..=0x0d | 0);
    if text.is_empty() || text.len() >= NAME_BYTES || matches!(text, "." | "..") || text.bytes().any(is_odd) {
        return Err(
            "expected the name of an interface, such as eth0: at most 15 bytes, without spaces, / and :"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// The path of a file or directory that may not be there yet.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("expected an absolute path".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_units() {
        for (text, seconds) in [
            ("5m", 300),
            ("300s", 300),
            ("90", 90),
            ("1h 30m", 5400),
            ("0", 0),
            ("24h", 86_400),
        ] {
            assert_eq!(linger(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "-5m",
            "5 parsecs",
            "25h",
            "18446744073709551616",
            "1e3",
        ] {
            assert!(linger(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        for text in [
            "error",
            "WARN",
            "info",
            "debug",
            "trace",
            "off",
            "info,dtm_daemon=debug",
            "dtm_daemon=trace",
        ] {
            assert!(log_filter(text).is_ok(), "{text}");
        }
        for text in ["", "infoo", "verbose", "3", "a=b=c", "info,dtm=loud"] {
            assert!(log_filter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interfaces_are_called_what_the_kernel_would_call_them() {
        for text in ["eth0", "enp3s0f1np1", "eth0.100", "br-0123456789ab", "wörld"] {
            assert!(interface_name(text).is_ok(), "{text}");
        }
        for text in [
            "",
            ".",
            "..",
            "a/b",
            "eth0:1",
            "eth 0",
            "eth0\n",
            "sixteen-letters-",
            "a\0b",
        ] {
            assert!(interface_name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_metrics_cannot_hide_another_page() {
        for text in ["/metrics", "/a/b", "/apis", "/-x", "/dtm.prom"] {
            assert!(telemetry_path(text).is_ok(), "{text}");
        }
        for text in [
            "", "metrics", "/", "/-/ready", "/-", "/api", "/api/v1", "/{x}", "/a b", "/m?x=1", "/é",
        ] {
            assert!(telemetry_path(text).is_err(), "{text}");
        }
    }
}
