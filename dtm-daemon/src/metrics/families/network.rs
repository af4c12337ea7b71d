//! Families with a network's name and driver.

use std::fmt;

use super::{Family, Section};
use crate::{
    metrics::{NetworkSums, Scrape, samples::Samples},
    tracker::Traffic,
};

const NETWORK: &[&str] = &["network", "driver"];

pub(super) const SECTION: Section = Section {
    title: "Docker networks",
    families: &[
        Family {
            name: "dtm_network_containers_receive_bytes_total",
            labels: NETWORK,
            help: "Bytes offered to all containers of the network, living and gone.",
            samples: |scrape, samples| containers(scrape, samples, |traffic| traffic.receive.bytes),
        },
        Family {
            name: "dtm_network_containers_transmit_bytes_total",
            labels: NETWORK,
            help: "Bytes sent by all containers of the network, living and gone.",
            samples: |scrape, samples| containers(scrape, samples, |traffic| traffic.transmit.bytes),
        },
        Family {
            name: "dtm_network_containers_receive_packets_total",
            labels: NETWORK,
            help: "Wire packets offered to all containers of the network, living and gone.",
            samples: |scrape, samples| containers(scrape, samples, |traffic| traffic.receive.packets),
        },
        Family {
            name: "dtm_network_containers_transmit_packets_total",
            labels: NETWORK,
            help: "Wire packets sent by all containers of the network, living and gone.",
            samples: |scrape, samples| containers(scrape, samples, |traffic| traffic.transmit.packets),
        },
        Family {
            name: "dtm_network_bridge_receive_bytes_total",
            labels: NETWORK,
            help: "Bytes from the host's stack into the network, at its bridge; container to container is not in it.",
            samples: |scrape, samples| bridges(scrape, samples, |traffic| traffic.receive.bytes),
        },
        Family {
            name: "dtm_network_bridge_transmit_bytes_total",
            labels: NETWORK,
            help: "Bytes from the network out to the host's stack, at its bridge; container to container is not in it.",
            samples: |scrape, samples| bridges(scrape, samples, |traffic| traffic.transmit.bytes),
        },
        Family {
            name: "dtm_network_bridge_receive_packets_total",
            labels: NETWORK,
            help: "Wire packets from the host's stack into the network, at its bridge.",
            samples: |scrape, samples| bridges(scrape, samples, |traffic| traffic.receive.packets),
        },
        Family {
            name: "dtm_network_bridge_transmit_packets_total",
            labels: NETWORK,
            help: "Wire packets from the network out to the host's stack, at its bridge.",
            samples: |scrape, samples| bridges(scrape, samples, |traffic| traffic.transmit.packets),
        },
    ],
};

fn containers(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&Traffic) -> u64) -> fmt::Result {
    networks(scrape, samples, |sums| Some(count(&sums.containers)))
}

fn bridges(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&Traffic) -> u64) -> fmt::Result {
    networks(scrape, samples, |sums| sums.bridge.as_ref().map(count))
}

fn networks(
    scrape: &Scrape,
    samples: &mut Samples<'_>,
    count: impl Fn(&NetworkSums) -> Option<u64>,
) -> fmt::Result {
    scrape
        .networks
        .iter()
        .try_for_each(|((name, driver), sums)| match count(sums) {
            Some(count) => samples.add(&[name, driver], count),
            None => Ok(()),
        })
}
