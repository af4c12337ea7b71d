//! Prometheus' text format 0.0.4, made from OpenMetrics.
//!
//! The two write samples and escape label values alike. They differ in the comments: a counter's family has
//! `_total` in its name, there is no unit and no end. HELP is escaped differently, but dtm's texts hold nothing
//! to escape.

/// Rewrites `openmetrics`, which has HELP and TYPE lines of every family, in this order.
pub(super) fn from_openmetrics(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.split_inclusive('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            let (suffix, kind) = match kind.trim_end() {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().and_then(|help| help.split_once(' ')) {
                push(&mut text, &["# HELP ", name, suffix, " ", help]);
            }
            push(&mut text, &["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with("# UNIT ") && line != "# EOF\n" {
            text.push_str(line);
        }
    }
    text
}

fn push(text: &mut String, parts: &[&str]) {
    for part in parts {
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::from_openmetrics;

    #[test]
    fn counters_get_their_suffix_and_units_and_the_end_go() {
        let openmetrics = "\
# HELP a_bytes All of a.
# TYPE a_bytes counter
# UNIT a_bytes bytes
a_bytes_total{x=\"y\"} 1
# HELP b B is counter.
# TYPE b gauge
b 2.5
# HELP c C.
# TYPE c info
c_info{v=\"1\"} 1
# EOF
";
        let text = "\
# HELP a_bytes_total All of a.
# TYPE a_bytes_total counter
a_bytes_total{x=\"y\"} 1
# HELP b B is counter.
# TYPE b gauge
b 2.5
# HELP c_info C.
# TYPE c_info gauge
c_info{v=\"1\"} 1
";
        assert_eq!(from_openmetrics(openmetrics), text);
    }

    #[test]
    fn label_values_that_look_like_comments_stay() {
        let openmetrics = "# TYPE a gauge\na{x=\"# EOF\\n# UNIT \\\"\"} 1\n# EOF\n";
        assert_eq!(
            from_openmetrics(openmetrics),
            "# TYPE a gauge\na{x=\"# EOF\\n# UNIT \\\"\"} 1\n"
        );
        assert_eq!(from_openmetrics("# EOF\n"), "");
        assert_eq!(from_openmetrics(""), "");
    }
}
