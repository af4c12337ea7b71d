//! The families every Prometheus client library has of its own process.

use std::fmt;

use super::{Family, Section};
use crate::metrics::{
    Scrape,
    process::Process,
    samples::{Samples, Value},
};

pub(super) const SECTION: Section = Section {
    title: "The daemon's process",
    families: &[
        Family {
            name: "process_cpu_seconds_total",
            labels: &[],
            help: "User and system CPU time spent.",
            samples: |scrape, samples| process(scrape, samples, |process| process.cpu_seconds.into()),
        },
        Family {
            name: "process_resident_memory_bytes",
            labels: &[],
            help: "Resident memory.",
            samples: |scrape, samples| process(scrape, samples, |process| process.resident_bytes.into()),
        },
        Family {
            name: "process_virtual_memory_bytes",
            labels: &[],
            help: "Virtual memory.",
            samples: |scrape, samples| process(scrape, samples, |process| process.virtual_bytes.into()),
        },
        Family {
            name: "process_open_fds",
            labels: &[],
            help: "Open file descriptors.",
            samples: |scrape, samples| process(scrape, samples, |process| process.open_fds.into()),
        },
        Family {
            name: "process_max_fds",
            labels: &[],
            help: "The most file descriptors there can be.",
            samples: |scrape, samples| process(scrape, samples, |process| process.max_fds.into()),
        },
        Family {
            name: "process_threads",
            labels: &[],
            help: "Threads.",
            samples: |scrape, samples| process(scrape, samples, |process| process.threads.into()),
        },
        Family {
            name: "process_start_time_seconds",
            labels: &[],
            help: "When the process started, in seconds since the epoch.",
            samples: |scrape, samples| process(scrape, samples, |process| process.start_time.into()),
        },
    ],
};

fn process(scrape: &Scrape, samples: &mut Samples<'_>, value: fn(&Process) -> Value) -> fmt::Result {
    scrape
        .process
        .as_ref()
        .map_or(Ok(()), |process| samples.add(&[], value(process)))
}
