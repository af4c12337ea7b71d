//! Families of Docker's own sandboxes, which belong to no container.

use std::fmt;

use super::{Family, Section};
use crate::{
    metrics::{Scrape, samples::Samples},
    tracker::Traffic,
};

const INFRASTRUCTURE: &[&str] = &["kind", "network"];

pub(super) const SECTION: Section = Section {
    title: "Docker's own sandboxes",
    families: &[
        Family {
            name: "dtm_infrastructure_receive_bytes_total",
            labels: INFRASTRUCTURE,
            help: "Bytes offered to sandboxes of Docker's own, living and gone, by what they are for (build: BuildKit in the engine; ingress: Swarm's routing mesh); in no container's numbers.",
            samples: |scrape, samples| infrastructure(scrape, samples, |traffic| traffic.receive.bytes),
        },
        Family {
            name: "dtm_infrastructure_transmit_bytes_total",
            labels: INFRASTRUCTURE,
            help: "Bytes sent by sandboxes of Docker's own, living and gone, by what they are for (build: BuildKit in the engine; ingress: Swarm's routing mesh); in no container's numbers.",
            samples: |scrape, samples| infrastructure(scrape, samples, |traffic| traffic.transmit.bytes),
        },
        Family {
            name: "dtm_infrastructure_receive_packets_total",
            labels: INFRASTRUCTURE,
            help: "Wire packets offered to sandboxes of Docker's own, living and gone, by what they are for (build: BuildKit in the engine; ingress: Swarm's routing mesh); in no container's numbers.",
            samples: |scrape, samples| infrastructure(scrape, samples, |traffic| traffic.receive.packets),
        },
        Family {
            name: "dtm_infrastructure_transmit_packets_total",
            labels: INFRASTRUCTURE,
            help: "Wire packets sent by sandboxes of Docker's own, living and gone, by what they are for (build: BuildKit in the engine; ingress: Swarm's routing mesh); in no container's numbers.",
            samples: |scrape, samples| infrastructure(scrape, samples, |traffic| traffic.transmit.packets),
        },
    ],
};

fn infrastructure(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&Traffic) -> u64) -> fmt::Result {
    scrape
        .infrastructure
        .iter()
        .try_for_each(|((kind, network), traffic)| samples.add(&[kind.as_str(), network], count(traffic)))
}
