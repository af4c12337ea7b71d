//! Families of what belongs to no container, and of the host as a whole.

use super::{Family, Section};

/// The hook of traffic nobody could name: the only one there is at an interface.
const TC: &[&str] = &["tc"];

pub(super) const SECTION: Section = Section {
    title: "Host",
    families: &[
        Family {
            name: "dtm_unattributed_receive_bytes_total",
            labels: &["hook"],
            help: "Bytes towards interfaces that nobody could name: gone without a name, or there for 20 s without one.",
            samples: |scrape, samples| samples.add(TC, scrape.snapshot.unattributed.receive.bytes),
        },
        Family {
            name: "dtm_unattributed_transmit_bytes_total",
            labels: &["hook"],
            help: "Bytes from interfaces that nobody could name: gone without a name, or there for 20 s without one.",
            samples: |scrape, samples| samples.add(TC, scrape.snapshot.unattributed.transmit.bytes),
        },
        Family {
            name: "dtm_unattributed_receive_packets_total",
            labels: &["hook"],
            help: "Wire packets towards interfaces that nobody could name: gone without a name, or there for 20 s without one.",
            samples: |scrape, samples| samples.add(TC, scrape.snapshot.unattributed.receive.packets),
        },
        Family {
            name: "dtm_unattributed_transmit_packets_total",
            labels: &["hook"],
            help: "Wire packets from interfaces that nobody could name: gone without a name, or there for 20 s without one.",
            samples: |scrape, samples| samples.add(TC, scrape.snapshot.unattributed.transmit.packets),
        },
        Family {
            name: "dtm_unattributed_dropped_packets_total",
            labels: &["reason"],
            help: "Wire packets the kernel threw away that belong to no container, by its own reason.",
            samples: |scrape, samples| {
                let mut drops = scrape.snapshot.unattributed_drops.iter();
                drops.try_for_each(|(reason, count)| samples.add(&[reason], *count))
            },
        },
        Family {
            name: "dtm_dropped_packets_total",
            labels: &["reason"],
            help: "Wire packets the kernel threw away on the whole host, by its own reason.",
            samples: |scrape, samples| {
                let mut drops = scrape.snapshot.dropped.iter();
                drops.try_for_each(|(reason, count)| samples.add(&[reason], *count))
            },
        },
    ],
};
