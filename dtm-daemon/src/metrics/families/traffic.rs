//! Where traffic goes: the second view of containers' traffic, and the matrix.

use std::fmt;

use dtm_common::views::{Protocol, Scope, Service, ViewTally, Volume};

use super::{Family, Section};
use crate::{
    metrics::{Scrape, samples::Samples},
    tracker::ContainerSnapshot,
};

const CELL: &[&str] = &["container_id", "name", "scope", "protocol"];
const SERVICE: &[&str] = &["container_id", "name", "service"];
const CONTAINER: &[&str] = &["container_id", "name"];
const FLOW: &[&str] = &["source", "destination"];

pub(super) const SECTION: Section = Section {
    title: "Where traffic goes",
    families: &[
        Family {
            name: "dtm_container_traffic_receive_bytes_total",
            labels: CELL,
            help: "Bytes offered to the container, by where their sender is and by protocol: a second view of the same \
                   traffic.",
            samples: |scrape, samples| cells(scrape, samples, Way::Receive, |volume| volume.bytes),
        },
        Family {
            name: "dtm_container_traffic_transmit_bytes_total",
            labels: CELL,
            help: "Bytes the container sent, by where they go and by protocol: a second view of the same traffic.",
            samples: |scrape, samples| cells(scrape, samples, Way::Transmit, |volume| volume.bytes),
        },
        Family {
            name: "dtm_container_traffic_receive_packets_total",
            labels: CELL,
            help: "Wire packets offered to the container, by where their sender is and by protocol.",
            samples: |scrape, samples| cells(scrape, samples, Way::Receive, |volume| volume.packets),
        },
        Family {
            name: "dtm_container_traffic_transmit_packets_total",
            labels: CELL,
            help: "Wire packets the container sent, by where they go and by protocol.",
            samples: |scrape, samples| cells(scrape, samples, Way::Transmit, |volume| volume.packets),
        },
        Family {
            name: "dtm_container_internet_receive_bytes_total",
            labels: SERVICE,
            help: "Bytes offered to the container from the internet, by the kind of service its port stands for.",
            samples: |scrape, samples| services(scrape, samples, Way::Receive),
        },
        Family {
            name: "dtm_container_internet_transmit_bytes_total",
            labels: SERVICE,
            help: "Bytes the container sent to the internet, by the kind of service its port stands for.",
            samples: |scrape, samples| services(scrape, samples, Way::Transmit),
        },
        Family {
            name: "dtm_container_tcp_syns_received_total",
            labels: CONTAINER,
            help: "TCP segments offered to the container that ask for a connection: SYN without ACK.",
            samples: |scrape, samples| syns(scrape, samples, Way::Receive),
        },
        Family {
            name: "dtm_container_tcp_syns_sent_total",
            labels: CONTAINER,
            help: "TCP segments the container sent that ask for a connection: SYN without ACK.",
            samples: |scrape, samples| syns(scrape, samples, Way::Transmit),
        },
        Family {
            name: "dtm_flow_bytes_total",
            labels: FLOW,
            help: "Bytes from one to another: containers by name, or @host, @private, @internet, @multicast, @other. Each \
                   byte once.",
            samples: |scrape, samples| flows(scrape, samples, |volume| volume.bytes),
        },
        Family {
            name: "dtm_flow_packets_total",
            labels: FLOW,
            help: "Wire packets from one to another, as dtm_flow_bytes_total.",
            samples: |scrape, samples| flows(scrape, samples, |volume| volume.packets),
        },
        Family {
            name: "dtm_flow_pairs",
            labels: &[],
            help: "Places for pairs of the matrix that are taken. With none left, further pairs are counted as \
                   @other to @other.",
            samples: |scrape, samples| match scrape.snapshot.status.flow_pairs {
                Some((pairs, _limit)) => samples.add(&[], pairs),
                None => Ok(()),
            },
        },
        Family {
            name: "dtm_flow_pairs_limit",
            labels: &[],
            help: "Places for pairs of the matrix (--flows.max-pairs).",
            samples: |scrape, samples| match scrape.snapshot.status.flow_pairs {
                Some((_pairs, limit)) => samples.add(&[], limit),
                None => Ok(()),
            },
        },
    ],
};

/// Which direction of a view.
#[derive(Clone, Copy)]
enum Way {
    Receive,
    Transmit,
}

/// The views of all containers that have one.
fn views(scrape: &Scrape, way: Way) -> impl Iterator<Item = (&ContainerSnapshot, &ViewTally)> {
    scrape.snapshot.containers.iter().filter_map(move |container| {
        let views = container.views.as_deref()?;
        let tally = match way {
            Way::Receive => &views.receive,
            Way::Transmit => &views.transmit,
        };
        Some((container, tally))
    })
}

/// Whether a cell is there before it has counted anything: those that people have rates of. A thousand containers would
/// else have a hundred thousand series that are always zero.
fn is_always_there(scope: Scope, protocol: Protocol) -> bool {
    matches!(scope, Scope::Network | Scope::Host | Scope::Internet)
        && matches!(protocol, Protocol::Tcp | Protocol::Udp)
}

fn cells(scrape: &Scrape, samples: &mut Samples<'_>, way: Way, count: fn(&Volume) -> u64) -> fmt::Result {
    for (ContainerSnapshot { container, .. }, tally) in views(scrape, way) {
        for (scope, of_scope) in Scope::ALL.into_iter().zip(&tally.cells) {
            for (protocol, volume) in Protocol::ALL.into_iter().zip(of_scope) {
                if volume.packets > 0 || is_always_there(scope, protocol) {
                    let id = container.id.short();
                    let values = [id, &container.name, scope.as_str(), protocol.as_str()];
                    samples.add(&values, count(volume))?;
                }
            }
        }
    }
    Ok(())
}

fn services(scrape: &Scrape, samples: &mut Samples<'_>, way: Way) -> fmt::Result {
    for (ContainerSnapshot { container, .. }, tally) in views(scrape, way) {
        for (service, bytes) in Service::ALL.into_iter().zip(tally.services) {
            samples.add(&[container.id.short(), &container.name, service.as_str()], bytes)?;
        }
    }
    Ok(())
}

fn syns(scrape: &Scrape, samples: &mut Samples<'_>, way: Way) -> fmt::Result {
    for (ContainerSnapshot { container, .. }, tally) in views(scrape, way) {
        samples.add(&[container.id.short(), &container.name], tally.syns)?;
    }
    Ok(())
}

fn flows(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&Volume) -> u64) -> fmt::Result {
    for flow in &scrape.snapshot.flows {
        samples.add(&[&flow.source, &flow.destination], count(&flow.volume))?;
    }
    Ok(())
}
