//! Families with a container's id and name.

use std::fmt;

use super::{Family, Section};
use crate::{
    docker::Container,
    metrics::{Scrape, samples::Samples},
    net::DeviceDrops,
    tracker::{ContainerSnapshot, DropSnapshot, Traffic},
};

const INTERFACE: &[&str] = &["container_id", "name", "network", "interface"];
const INTERFACE_DIRECTION: &[&str] = &["container_id", "name", "network", "interface", "direction"];
const DROPS: &[&str] = &["container_id", "name", "direction", "reason"];
const INFO: &[&str] = &[
    "container_id",
    "name",
    "id",
    "image",
    "network_mode",
    "network_container_id",
    "compose_project",
    "compose_service",
    "swarm_service",
];

pub(super) const SECTION: Section = Section {
    title: "Containers",
    families: &[
        Family {
            name: "dtm_container_network_receive_bytes_total",
            labels: INTERFACE,
            help: "Bytes offered to the container, layer 2 headers included, as the interface's own counter grows.",
            samples: |scrape, samples| interfaces(scrape, samples, |traffic| traffic.receive.bytes),
        },
        Family {
            name: "dtm_container_network_transmit_bytes_total",
            labels: INTERFACE,
            help: "Bytes the container sent, layer 2 headers included, as the interface's own counter grows.",
            samples: |scrape, samples| interfaces(scrape, samples, |traffic| traffic.transmit.bytes),
        },
        Family {
            name: "dtm_container_network_receive_packets_total",
            labels: INTERFACE,
            help: "Wire packets offered to the container: a GSO or GRO buffer counts as its segments.",
            samples: |scrape, samples| interfaces(scrape, samples, |traffic| traffic.receive.packets),
        },
        Family {
            name: "dtm_container_network_transmit_packets_total",
            labels: INTERFACE,
            help: "Wire packets the container sent: a GSO or GRO buffer counts as its segments.",
            samples: |scrape, samples| interfaces(scrape, samples, |traffic| traffic.transmit.packets),
        },
        Family {
            name: "dtm_container_network_receive_wire_bytes_total",
            labels: INTERFACE,
            help: "Bytes offered to the container with the headers of every segment, as a network card would count.",
            samples: |scrape, samples| interfaces(scrape, samples, |traffic| traffic.receive.wire_bytes),
        },
        Family {
            name: "dtm_container_network_transmit_wire_bytes_total",
            labels: INTERFACE,
            help: "Bytes the container sent with the headers of every segment, as a network card would count.",
            samples: |scrape, samples| interfaces(scrape, samples, |traffic| traffic.transmit.wire_bytes),
        },
        Family {
            name: "dtm_container_network_dropped_packets_total",
            labels: DROPS,
            help: "Wire packets the kernel threw away on their way to or from the container, by its own reason.",
            samples: |scrape, samples| drops(scrape, samples, |drop| drop.packets),
        },
        Family {
            name: "dtm_container_network_dropped_bytes_total",
            labels: DROPS,
            help: "Bytes the kernel threw away on their way to or from the container, by its own reason.",
            samples: |scrape, samples| drops(scrape, samples, |drop| drop.bytes),
        },
        Family {
            name: "dtm_container_network_interface_dropped_total",
            labels: INTERFACE_DIRECTION,
            help: "Packets that the host end of the container's interface counts as thrown away itself (its rx_dropped and \
                   tx_dropped), in the container's direction, since dtm first saw it. Not of macvlan, ipvlan and the host's \
                   network.",
            samples: device_drops,
        },
        Family {
            name: "dtm_container_info",
            labels: INFO,
            help: "What else is known of a container, to be joined by container_id; always 1. Docker labels \
                   allowed by --container-labels are there as label_<name>.",
            samples: info,
        },
        Family {
            name: "dtm_container_start_time_seconds",
            labels: &["container_id", "name"],
            help: "When the container last started, in seconds since the epoch.",
            samples: |scrape, samples| {
                living(scrape).try_for_each(|ContainerSnapshot { container, .. }| {
                    match container.started_at {
                        Some(time) => samples.add(&[container.id.short(), &container.name], time),
                        None => Ok(()),
                    }
                })
            },
        },
        Family {
            name: "dtm_container_uncovered",
            labels: &["container_id", "name", "reason"],
            help: "1 for a container whose traffic cannot be seen, with the reason; no series for any other.",
            samples: |scrape, samples| {
                living(scrape).try_for_each(
                    |ContainerSnapshot {
                         container, uncovered, ..
                     }| match uncovered {
                        Some(reason) => samples.add(&[container.id.short(), &container.name, reason], 1_u64),
                        None => Ok(()),
                    },
                )
            },
        },
    ],
};

fn interfaces(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&Traffic) -> u64) -> fmt::Result {
    for ContainerSnapshot {
        container,
        interfaces,
        ..
    } in &scrape.snapshot.containers
    {
        let id = container.id.short();
        for interface in interfaces {
            let values = [id, &container.name, &interface.network, &interface.interface];
            samples.add(&values, count(&interface.traffic))?;
        }
    }
    Ok(())
}

fn device_drops(scrape: &Scrape, samples: &mut Samples<'_>) -> fmt::Result {
    for ContainerSnapshot {
        container,
        interfaces,
        ..
    } in &scrape.snapshot.containers
    {
        let id = container.id.short();
        for interface in interfaces {
            let Some(DeviceDrops { receive, transmit }) = interface.traffic.dropped else {
                continue;
            };
            for (direction, count) in [("receive", receive), ("transmit", transmit)] {
                let place = [&*interface.network, &*interface.interface, direction];
                samples.add(&[id, &container.name, place[0], place[1], place[2]], count)?;
            }
        }
    }
    Ok(())
}

fn drops(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&DropSnapshot) -> u64) -> fmt::Result {
    for ContainerSnapshot { container, drops, .. } in &scrape.snapshot.containers {
        let id = container.id.short();
        for drop in drops {
            samples.add(&[id, &container.name, drop.direction, &drop.reason], count(drop))?;
        }
    }
    Ok(())
}

/// Gauges are of what there is: those of a container that ended go at once, while its counters linger.
fn living(scrape: &Scrape) -> impl Iterator<Item = &ContainerSnapshot> {
    scrape
        .snapshot
        .containers
        .iter()
        .filter(|container| container.living)
}

fn info(scrape: &Scrape, samples: &mut Samples<'_>) -> fmt::Result {
    living(scrape).try_for_each(
        |ContainerSnapshot {
             container,
             network_container_id,
             ..
         }| {
            // A label the container does not have is empty, which Prometheus takes for absent: every series has
            // the same labels.
            let label = |name: &str| container.labels.get(name).map_or("", String::as_str);
            let Container {
                id,
                name,
                image,
                network_mode,
                ..
            } = &**container;
            let values = [
                id.short(),
                name,
                id.full(),
                image,
                network_mode,
                network_container_id.as_deref().unwrap_or_default(),
                label("com.docker.compose.project"),
                label("com.docker.compose.service"),
                label("com.docker.swarm.service.name"),
            ];
            let allowed = scrape.config.container_labels.iter();
            let allowed: Vec<_> = allowed
                .map(|allowed| (&*allowed.prometheus, label(&allowed.docker)))
                .collect();
            samples.add_with(&values, &allowed, 1_u64)
        },
    )
}
