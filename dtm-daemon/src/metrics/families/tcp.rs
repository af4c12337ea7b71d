//! How TCP connections fare.

use std::fmt;

use dtm_common::{
    tcp::{BOUNDS, Histogram, TcpCounters, TcpFailure, TcpRole},
    views::{Protocol, ViewCounters},
};

use super::{Family, Section};
use crate::{
    metrics::{
        Scrape,
        samples::{Distribution, Samples},
    },
    tracker::{ContainerSnapshot, TcpSnapshot},
};

const CONTAINER: &[&str] = &["container_id", "name"];
const ROLE: &[&str] = &["container_id", "name", "role"];
const REASON: &[&str] = &["container_id", "name", "reason"];

/// The families that are histograms.
pub(super) const HISTOGRAMS: [&str; 2] = [
    "dtm_container_tcp_rtt_seconds",
    "dtm_container_tcp_connect_duration_seconds",
];

pub(super) const SECTION: Section = Section {
    title: "TCP connections",
    families: &[
        Family {
            name: "dtm_container_tcp_transmitted_segments_total",
            labels: CONTAINER,
            help: "TCP segments the container sent, those that it sent again and those without data included.",
            samples: |scrape, samples| seen(scrape, samples, segments),
        },
        Family {
            name: "dtm_container_tcp_retransmitted_segments_total",
            labels: CONTAINER,
            help: "TCP segments the container sent again, SYN-ACKs among them.",
            samples: |scrape, samples| counted(scrape, samples, |tcp| tcp.retransmitted),
        },
        Family {
            name: "dtm_container_tcp_connections_opened_total",
            labels: ROLE,
            help: "TCP connections that were established, by who asked for them: client is the container, server is the \
                   other side.",
            samples: |scrape, samples| {
                each(scrape, samples, |tcp| {
                    let roles = TcpRole::ALL.map(TcpRole::as_str);
                    roles.into_iter().zip(tcp.opened)
                })
            },
        },
        Family {
            name: "dtm_container_tcp_connections_failed_total",
            labels: REASON,
            help: "TCP connections the container asked for in vain: refused by a reset, without an answer, unreachable by \
                   what ICMP said, or given up otherwise.",
            samples: |scrape, samples| {
                each(scrape, samples, |tcp| {
                    let reasons = TcpFailure::ALL.map(TcpFailure::as_str);
                    reasons.into_iter().zip(tcp.failed)
                })
            },
        },
        Family {
            name: "dtm_container_tcp_resets_received_total",
            labels: CONTAINER,
            help: "TCP segments with RST offered to the container; on the host's network, those its connections received.",
            samples: |scrape, samples| {
                seen(scrape, samples, |views, tcp| {
                    views.receive.resets + tcp.resets_received
                })
            },
        },
        Family {
            name: "dtm_container_tcp_resets_sent_total",
            labels: CONTAINER,
            help: "TCP segments with RST the container sent; on the host's network, those of its sockets.",
            samples: |scrape, samples| {
                seen(scrape, samples, |views, tcp| {
                    views.transmit.resets + tcp.resets_sent
                })
            },
        },
        Family {
            name: "dtm_container_tcp_listen_overflows_total",
            labels: CONTAINER,
            help: "How often a listening socket of the container had no room for a new connection: the kernel's \
                   TcpExtListenOverflows of its network namespace, at most 15 seconds old.",
            samples: |scrape, samples| {
                listeners(scrape, samples, |tcp| tcp.listen.map(|listen| listen.overflows))
            },
        },
        Family {
            name: "dtm_container_tcp_listen_drops_total",
            labels: CONTAINER,
            help: "How often a listening socket of the container dropped a new connection for any reason: the kernel's \
                   TcpExtListenDrops, as dtm_container_tcp_listen_overflows_total.",
            samples: |scrape, samples| {
                listeners(scrape, samples, |tcp| tcp.listen.map(|listen| listen.drops))
            },
        },
        Family {
            name: "dtm_container_tcp_connections",
            labels: CONTAINER,
            help: "TCP connections the container has now, as the kernel's CurrEstab: established, or closed by the other \
                   side only.",
            samples: |scrape, samples| {
                for (container, tcp) in containers(scrape).filter(|(container, _tcp)| container.living) {
                    if let Some(connections) = tcp.connections {
                        samples.add(&labels(container), connections)?;
                    }
                }
                Ok(())
            },
        },
        Family {
            name: HISTOGRAMS[0],
            labels: CONTAINER,
            help: "Smoothed round-trip times of the container's TCP connections, sampled at most once in each round trip.",
            samples: |scrape, samples| {
                for (container, tcp) in containers(scrape).filter(|(_container, tcp)| has_any(tcp)) {
                    distribution(samples, &labels(container), &tcp.counters.rtt)?;
                }
                Ok(())
            },
        },
        Family {
            name: HISTOGRAMS[1],
            labels: ROLE,
            help: "How long TCP handshakes took: a client's from its first SYN, a server's from its SYN-ACK unless that had \
                   to be sent again.",
            samples: |scrape, samples| {
                for (container, tcp) in containers(scrape).filter(|(_container, tcp)| has_any(tcp)) {
                    for (role, connect) in TcpRole::ALL.into_iter().zip(&tcp.counters.connect) {
                        let [id, name] = labels(container);
                        distribution(samples, &[id, name, role.as_str()], connect)?;
                    }
                }
                Ok(())
            },
        },
    ],
};

/// Those whose connections are counted.
fn containers(scrape: &Scrape) -> impl Iterator<Item = (&ContainerSnapshot, &TcpSnapshot)> {
    let containers = scrape.snapshot.containers.iter();
    containers.filter_map(|container| Some((container, container.tcp.as_deref()?)))
}

fn labels(container: &ContainerSnapshot) -> [&str; 2] {
    [container.container.id.short(), &container.container.name]
}

/// Whether there ever was a connection: without one nobody misses fifty series of its times.
fn has_any(tcp: &TcpSnapshot) -> bool {
    tcp.counters.opened != [0; 2]
        || tcp.connections.is_some_and(|connections| connections > 0)
        || tcp.counters.rtt.sum > 0
}

/// All segments that a container sent.
fn segments(views: &ViewCounters, _tcp: &TcpCounters) -> u64 {
    let cells = views.transmit.cells.iter();
    cells.map(|scope| scope[Protocol::Tcp as usize].packets).sum()
}

/// What is seen where packets pass, of those of whose it is.
fn seen(
    scrape: &Scrape,
    samples: &mut Samples<'_>,
    count: fn(&ViewCounters, &TcpCounters) -> u64,
) -> fmt::Result {
    for (container, tcp) in containers(scrape) {
        if let Some(views) = container.views.as_deref() {
            samples.add(&labels(container), count(views, &tcp.counters))?;
        }
    }
    Ok(())
}

fn counted(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&TcpCounters) -> u64) -> fmt::Result {
    for (container, tcp) in containers(scrape) {
        samples.add(&labels(container), count(&tcp.counters))?;
    }
    Ok(())
}

fn each<I: IntoIterator<Item = (&'static str, u64)>>(
    scrape: &Scrape,
    samples: &mut Samples<'_>,
    counts: fn(&TcpCounters) -> I,
) -> fmt::Result {
    for (container, tcp) in containers(scrape) {
        let [id, name] = labels(container);
        for (label, count) in counts(&tcp.counters) {
            samples.add(&[id, name, label], count)?;
        }
    }
    Ok(())
}

fn listeners(
    scrape: &Scrape,
    samples: &mut Samples<'_>,
    count: fn(&TcpSnapshot) -> Option<u64>,
) -> fmt::Result {
    for (container, tcp) in containers(scrape) {
        if let Some(count) = count(tcp) {
            samples.add(&labels(container), count)?;
        }
    }
    Ok(())
}

/// Bounds in seconds; the kernel side has microseconds.
fn distribution(samples: &mut Samples<'_>, values: &[&str], histogram: &Histogram) -> fmt::Result {
    let bounds = BOUNDS
        .iter()
        .map(|bound| f64::from(*bound) / 1e6)
        .chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(histogram.buckets).collect();
    let distribution = Distribution {
        buckets: &buckets,
        // Exact up to 285 years.
        sum: histogram.sum as f64 / 1e6,
    };
    samples.add_distribution(values, distribution)
}
