//! A scrape, made readable.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use xtask::host::{Answer, get};

const TIMEOUT: Duration = Duration::from_secs(10);
const NETWORK: &str = "dtm_container_network_";
const DROPPED: &str = "dtm_container_network_dropped_packets_total";

/// Whether the dtm at `address` says that it is ready.
pub(crate) fn is_ready(address: SocketAddr) -> bool {
    ask(address, "/-/ready").is_ok_and(|answer| answer.status == 200)
}

fn ask(address: SocketAddr, path: &str) -> Result<Answer> {
    let connection = TcpStream::connect_timeout(&address, TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    get(connection, path)
}

/// What matters to somebody who looks for the first time.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// By container and network.
    traffic: BTreeMap<(String, String), Traffic>,
    /// By container, reason and direction; only where there were any.
    dropped: BTreeMap<(String, String, String), u64>,
    /// A few lines as they are.
    lines: Vec<String>,
}

#[derive(Debug, Default, PartialEq)]
struct Traffic {
    received: Count,
    sent: Count,
}

#[derive(Debug, Default, PartialEq)]
struct Count {
    bytes: u64,
    packets: u64,
}

impl Sample {
    /// Scrapes the dtm at `address`.
    pub(crate) fn take(address: SocketAddr) -> Result<Self> {
        let answer = ask(address, "/metrics").with_context(|| format!("read http://{address}/metrics"))?;
        if answer.status != 200 {
            bail!("http://{address}/metrics answered {}", answer.status);
        }
        Ok(Self::read(&answer.body))
    }

    fn read(exposition: &str) -> Self {
        let mut sample = Self::default();
        for line in exposition.lines() {
            if let Some(series) = Series::parse(line) {
                sample.add(&series, line);
            }
        }
        sample
    }

    fn add(&mut self, series: &Series<'_>, line: &str) {
        let Some(container) = series.label("name") else {
            return;
        };
        if series.family == DROPPED {
            if series.value > 0 {
                let part = |label| series.label(label).unwrap_or_default().to_owned();
                self.dropped.insert(
                    (container.to_owned(), part("reason"), part("direction")),
                    series.value,
                );
                self.keep(series, line);
            }
            return;
        }
        let (Some(what), Some(network)) = (series.family.strip_prefix(NETWORK), series.label("network"))
        else {
            return;
        };
        let traffic = self
            .traffic
            .entry((container.to_owned(), network.to_owned()))
            .or_default();
        match what {
            "receive_bytes_total" => traffic.received.bytes += series.value,
            "receive_packets_total" => traffic.received.packets += series.value,
            "transmit_bytes_total" => traffic.sent.bytes += series.value,
            "transmit_packets_total" => traffic.sent.packets += series.value,
            _ => return,
        }
        self.keep(series, line);
    }

    /// One line of every family is enough to see what they look like.
    fn keep(&mut self, series: &Series<'_>, line: &str) {
        let start = format!("{}{{", series.family);
        if series.value > 0 && !self.lines.iter().any(|kept| kept.starts_with(&start)) {
            self.lines.push(line.to_owned());
        }
    }

    /// Whether a container of this name has sent anything.
    pub(crate) fn has_traffic(&self, container: &str) -> bool {
        self.traffic
            .iter()
            .any(|((name, _), traffic)| name == container && traffic.sent.packets > 0)
    }

    /// Whether anybody has sent anything.
    pub(crate) fn has_any_traffic(&self) -> bool {
        self.traffic.values().any(|traffic| traffic.sent.packets > 0)
    }

    /// How many bytes a container of this name sent on a network.
    pub(crate) fn sent(&self, container: &str, network: &str) -> u64 {
        let traffic = self.traffic.get(&(container.to_owned(), network.to_owned()));
        traffic.map_or(0, |traffic| traffic.sent.bytes)
    }

    /// Whether packets of a container of this name were dropped.
    pub(crate) fn has_drops(&self, container: &str) -> bool {
        self.dropped.keys().any(|(name, ..)| name == container)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            traffic,
            dropped,
            lines,
        } = self;
        writeln!(
            f,
            "{:<20} {:<12} {:>14} {:>10} {:>14} {:>10}",
            "container", "network", "received B", "packets", "sent B", "packets"
        )?;
        for ((container, network), Traffic { received, sent }) in traffic {
            let (bytes, packets) = (received.bytes, received.packets);
            write!(f, "{container:<20} {network:<12} {bytes:>14} {packets:>10} ")?;
            writeln!(f, "{:>14} {:>10}", sent.bytes, sent.packets)?;
        }
        for ((container, reason, direction), packets) in dropped {
            writeln!(
                f,
                "dropped: {packets} packets of {container} on {direction}, because {reason}"
            )?;
        }
        writeln!(f)?;
        lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A line of the text format.
struct Series<'a> {
    family: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: u64,
}

impl<'a> Series<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (family, rest) = line.split_once('{')?;
        // A value may hold anything, braces too; the last one ends the labels.
        let (labels, value) = rest.rsplit_once("} ")?;
        let mut pairs = Vec::new();
        let mut rest = labels;
        while let Some((label, after)) = rest.split_once("=\"") {
            let end = end_of_value(after)?;
            pairs.push((label, &after[..end]));
            rest = after[end + 1..].trim_start_matches(',');
        }
        Some(Self {
            family,
            labels: pairs,
            value: value.parse().ok()?,
        })
    }

    fn label(&self, wanted: &str) -> Option<&'a str> {
        self.labels
            .iter()
            .find(|(label, _)| *label == wanted)
            .map(|(_, value)| *value)
    }
}

/// Where the first quotation mark without a backslash is.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, character)| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPOSITION: &str = "\
        # TYPE dtm_container_network_transmit_packets_total counter\n\
        dtm_container_network_transmit_packets_total{container_id=\"0\",name=\"web\",network=\"a}\\\" b\",interface=\"eth0\"} 7\n\
        dtm_container_network_dropped_packets_total{container_id=\"0\",name=\"web\",direction=\"transmit\",reason=\"netfilter_drop\"} 3\n\
        dtm_docker_up 1\n";

    #[test]
    fn traffic_and_drops_are_found_by_name() {
        let sample = Sample::read(EXPOSITION);
        assert!(sample.has_traffic("web") && sample.has_drops("web"));
        assert!(!sample.has_traffic("we") && !sample.has_drops("we"));
        assert_eq!(sample.traffic.keys().next().unwrap().1, "a}\\\" b");
        assert!(
            sample
                .to_string()
                .contains("dropped: 3 packets of web on transmit, because netfilter_drop")
        );
        assert_eq!(sample.lines.len(), 2);
    }
}
