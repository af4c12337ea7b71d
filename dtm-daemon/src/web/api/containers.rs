//! `/api/v1/containers`: what each container moved and lost.

use std::collections::HashMap;

use dtm_common::views::{Protocol, Scope, Service, ViewCounters, Volume};
use serde::Serialize;

use super::rates::{Carried, Moved, Rate, rate, seconds};
use crate::{
    tracker::{ContainerSnapshot, Snapshot},
    web::readings::Earlier,
};

/// Every container that has series.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    seconds: Rate,
    containers: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    name: &'a str,
    container_id: &'a str,
    id: &'a str,
    image: &'a str,
    state: &'static str,
    running: bool,
    started_at: Option<f64>,
    network_mode: &'a str,
    uncovered: Option<&'static str>,
    networks: Vec<Series<'a>>,
    traffic: Option<Vec<Cell>>,
    internet: Option<Vec<Internet>>,
    tcp_syns: Option<Syns>,
    drops: Vec<Drops<'a>>,
}

/// What it moved on a network.
#[derive(Debug, Serialize)]
struct Series<'a> {
    network: &'a str,
    interface: &'a str,
    receive: Carried,
    transmit: Carried,
}

/// What it moved with one scope in one protocol.
#[derive(Debug, Serialize)]
struct Cell {
    scope: &'static str,
    protocol: &'static str,
    receive: Moved,
    transmit: Moved,
}

/// What it moved with the internet for one kind of service.
#[derive(Debug, Serialize)]
struct Internet {
    service: &'static str,
    receive_bytes: u64,
    transmit_bytes: u64,
    receive_bytes_per_second: Rate,
    transmit_bytes_per_second: Rate,
}

/// Connections that were asked for.
#[derive(Debug, Serialize)]
struct Syns {
    received: u64,
    sent: u64,
    received_per_second: Rate,
    sent_per_second: Rate,
}

/// What it lost one way for one reason.
#[derive(Debug, Serialize)]
struct Drops<'a> {
    direction: &'static str,
    reason: &'a str,
    #[serde(flatten)]
    lost: Moved,
}

impl<'a> Answer<'a> {
    /// Those of `now`, in its order.
    pub(super) fn new(now: &'a Snapshot, earlier: Option<&Earlier>) -> Self {
        let before: HashMap<_, _> = earlier
            .iter()
            .flat_map(|earlier| &earlier.snapshot.containers)
            .map(|container| (container.container.id.full(), container))
            .collect();
        let containers = now.containers.iter().map(|container| {
            let before = before.get(container.container.id.full()).copied();
            Since { before, earlier }.container(container)
        });
        Self {
            seconds: seconds(earlier),
            containers: containers.collect(),
        }
    }
}

/// A container in the earlier reading, if it was in it.
#[derive(Clone, Copy)]
struct Since<'a> {
    before: Option<&'a ContainerSnapshot>,
    earlier: Option<&'a Earlier>,
}

impl Since<'_> {
    fn container<'a>(&self, now: &'a ContainerSnapshot) -> Entry<'a> {
        let container = &*now.container;
        let views = now.views.as_deref();
        Entry {
            name: &container.name,
            container_id: container.id.short(),
            id: container.id.full(),
            image: &container.image,
            state: container.state.as_str(),
            running: now.living,
            started_at: container.started_at,
            network_mode: &container.network_mode,
            uncovered: now.uncovered,
            networks: self.networks(now),
            traffic: views.map(|views| self.cells(views)),
            internet: views.map(|views| self.internet(views)),
            tcp_syns: views.map(|views| self.syns(views)),
            drops: self.drops(now),
        }
    }

    fn networks<'a>(&self, now: &'a ContainerSnapshot) -> Vec<Series<'a>> {
        let networks = now.interfaces.iter().map(|series| {
            let mut all = self.before.iter().flat_map(|before| &before.interfaces);
            let before = all
                .find(|before| before.network == series.network && before.interface == series.interface)
                .map(|before| before.traffic);
            let (receive, transmit) = (
                before.map(|traffic| traffic.receive),
                before.map(|traffic| traffic.transmit),
            );
            Series {
                network: &series.network,
                interface: &series.interface,
                receive: Carried::new(series.traffic.receive, receive, self.earlier),
                transmit: Carried::new(series.traffic.transmit, transmit, self.earlier),
            }
        });
        networks.collect()
    }

    fn views(&self) -> Option<&ViewCounters> {
        self.before?.views.as_deref()
    }

    /// Those that counted anything: most of the 28 never do.
    fn cells(&self, now: &ViewCounters) -> Vec<Cell> {
        let all = Scope::ALL
            .into_iter()
            .flat_map(|scope| Protocol::ALL.map(|protocol| (scope, protocol)));
        let cells = all.filter_map(|(scope, protocol)| {
            let cell = |views: &ViewCounters| {
                let [receive, transmit] = [&views.receive, &views.transmit]
                    .map(|tally| tally.cells[scope as usize][protocol as usize]);
                (receive, transmit)
            };
            let (receive, transmit) = cell(now);
            if (receive, transmit) == (Volume::default(), Volume::default()) {
                return None;
            }
            let before = self.views().map(cell);
            Some(Cell {
                scope: scope.as_str(),
                protocol: protocol.as_str(),
                receive: Moved::new(receive, before.map(|(receive, _transmit)| receive), self.earlier),
                transmit: Moved::new(
                    transmit,
                    before.map(|(_receive, transmit)| transmit),
                    self.earlier,
                ),
            })
        });
        cells.collect()
    }

    fn internet(&self, now: &ViewCounters) -> Vec<Internet> {
        let services = Service::ALL.map(|service| {
            let receive = |views: &ViewCounters| views.receive.services[service as usize];
            let transmit = |views: &ViewCounters| views.transmit.services[service as usize];
            Internet {
                service: service.as_str(),
                receive_bytes: receive(now),
                transmit_bytes: transmit(now),
                receive_bytes_per_second: rate(receive(now), self.views().map(receive), self.earlier),
                transmit_bytes_per_second: rate(transmit(now), self.views().map(transmit), self.earlier),
            }
        });
        services.into()
    }

    fn syns(&self, now: &ViewCounters) -> Syns {
        let before = self.views();
        let (received, sent) = (now.receive.syns, now.transmit.syns);
        Syns {
            received,
            sent,
            received_per_second: rate(received, before.map(|views| views.receive.syns), self.earlier),
            sent_per_second: rate(sent, before.map(|views| views.transmit.syns), self.earlier),
        }
    }

    fn drops<'a>(&self, now: &'a ContainerSnapshot) -> Vec<Drops<'a>> {
        let drops = now.drops.iter().map(|lost| {
            let mut all = self.before.iter().flat_map(|before| &before.drops);
            let before = all
                .find(|before| (before.direction, &before.reason) == (lost.direction, &lost.reason))
                .map(|before| Volume {
                    bytes: before.bytes,
                    packets: before.packets,
                });
            let volume = Volume {
                bytes: lost.bytes,
                packets: lost.packets,
            };
            Drops {
                direction: lost.direction,
                reason: &lost.reason,
                lost: Moved::new(volume, before, self.earlier),
            }
        });
        drops.collect()
    }
}
