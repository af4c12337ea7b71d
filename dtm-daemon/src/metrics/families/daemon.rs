//! Families of the daemon's own state, and of how complete its numbers are.

use std::{collections::BTreeMap, fmt};

use super::{Family, Section};
use crate::{
    config::{REVISION, VERSION},
    metrics::samples::{Samples, Value},
};

pub(super) const SECTION: Section = Section {
    title: "The daemon",
    families: &[
        Family {
            name: "dtm_build_info",
            labels: &["version", "revision", "arch"],
            help: "What this daemon was built from; always 1.",
            samples: |_scrape, samples| samples.add(&[VERSION, REVISION, std::env::consts::ARCH], 1_u64),
        },
        Family {
            name: "dtm_docker_up",
            labels: &[],
            help: "1 while the Docker engine answers, else 0.",
            samples: |scrape, samples| samples.add(&[], scrape.snapshot.status.docker_up),
        },
        Family {
            name: "dtm_containers",
            labels: &["state"],
            help: "Containers by the state Docker says they are in.",
            samples: |scrape, samples| {
                let mut states = scrape.snapshot.status.containers.iter();
                states.try_for_each(|(state, count)| samples.add(&[state.as_str()], *count))
            },
        },
        Family {
            name: "dtm_interfaces",
            labels: &["state", "mode"],
            help: "Interfaces by how far they got (pending, named, infrastructure, bridge, failed, refused for want of a slot) and how dtm is attached (tcx, clsact, none); control groups of containers on the host's network are here as well (cgroup).",
            samples: |scrape, samples| {
                let mut interfaces = scrape.snapshot.status.interfaces.iter();
                interfaces.try_for_each(|((state, mode), count)| samples.add(&[state, mode], *count))
            },
        },
        Family {
            name: "dtm_interfaces_preceded",
            labels: &["mode"],
            help: "Interfaces at which somebody else's program runs before dtm's: what it ends there is not counted. By how dtm is attached.",
            samples: |scrape, samples| one(&scrape.snapshot.status.preceded, samples),
        },
        Family {
            name: "dtm_feature_available",
            labels: &["feature"],
            help: "1 where this host offers the feature; where it is 0, what depends on it is missing.",
            samples: |scrape, samples| one(&scrape.snapshot.status.features, samples),
        },
        Family {
            name: "dtm_bpf_program_attached",
            labels: &["program"],
            help: "To how many interfaces, or control groups, a program is attached; 1 for the tracepoint.",
            samples: |scrape, samples| one(&scrape.snapshot.status.programs, samples),
        },
        Family {
            name: "dtm_bpf_map_entries",
            labels: &["map"],
            help: "Entries of a map in use.",
            samples: |scrape, samples| {
                let mut maps = scrape.snapshot.status.maps.iter();
                maps.try_for_each(|(map, (entries, _max))| samples.add(&[map], *entries))
            },
        },
        Family {
            name: "dtm_bpf_map_max_entries",
            labels: &["map"],
            help: "The most entries a map can hold; what comes beyond them is not counted.",
            samples: |scrape, samples| {
                let mut maps = scrape.snapshot.status.maps.iter();
                maps.try_for_each(|(map, (_entries, max))| samples.add(&[map], *max))
            },
        },
        Family {
            name: "dtm_bpf_map_update_errors_total",
            labels: &["map"],
            help: "Updates of a map that failed.",
            samples: |scrape, samples| one(&scrape.snapshot.status.map_update_errors, samples),
        },
        Family {
            name: "dtm_bpf_program_errors_total",
            labels: &["reason"],
            help: "Packets the kernel side could not count, or not wholly, by reason.",
            samples: |scrape, samples| one(&scrape.snapshot.status.program_errors, samples),
        },
        Family {
            name: "dtm_events_lost_total",
            labels: &["source"],
            help: "Events dtm did not see, by source. netlink, cgroups: they came faster than it could read them, and it \
                   looks at everything anew. kfree_skb: drops that happened while a drop was being counted on the same CPU.",
            samples: |scrape, samples| one(&scrape.snapshot.status.events_lost, samples),
        },
        Family {
            name: "dtm_attach_errors_total",
            labels: &["reason"],
            help: "Attachments to an interface or a control group that failed, by reason.",
            samples: |scrape, samples| one(&scrape.snapshot.status.attach_errors, samples),
        },
        Family {
            name: "dtm_reattached_total",
            labels: &[],
            help: "Attachments somebody else removed and dtm made again.",
            samples: |scrape, samples| samples.add(&[], scrape.snapshot.status.reattached),
        },
        Family {
            name: "dtm_takeover_interfaces",
            labels: &["found"],
            help: "Interfaces and control groups that an earlier dtm had attached to, as this one found them at its start: still attached, with a program taken off (detached), or gone.",
            samples: |scrape, samples| one(&scrape.snapshot.status.takeover, samples),
        },
        Family {
            name: "dtm_unwatched_seconds_total",
            labels: &[],
            help: "For how long no dtm ran between two that took over from each other, up to a second too much each time. What was attached went on counting; what was born and ended meanwhile was not seen.",
            samples: |scrape, samples| samples.add(&[], scrape.snapshot.status.unwatched.as_secs_f64()),
        },
        Family {
            name: "dtm_journal_bytes",
            labels: &[],
            help: "Memory for what the next dtm has to know beside the counters; 0 where nothing outlives this one.",
            samples: |scrape, samples| samples.add(&[], scrape.snapshot.status.journal_bytes),
        },
        Family {
            name: "dtm_scrape_collector_duration_seconds",
            labels: &["collector"],
            help: "How long a part of this scrape took to read.",
            samples: |scrape, samples| {
                samples.add(&["maps"], scrape.snapshot.status.read_duration.as_secs_f64())?;
                samples.add(&["process"], scrape.process_duration.as_secs_f64())
            },
        },
        Family {
            name: "dtm_scrape_collector_success",
            labels: &["collector"],
            help: "1 where a part of this scrape could be read, else 0 and its numbers are missing.",
            samples: |scrape, samples| {
                samples.add(&["maps"], scrape.snapshot.status.read_success)?;
                samples.add(&["process"], scrape.process.is_some())
            },
        },
    ],
};

/// One sample for each key.
fn one<V: Copy + Into<Value>>(values: &BTreeMap<&'static str, V>, samples: &mut Samples<'_>) -> fmt::Result {
    values
        .iter()
        .try_for_each(|(key, value)| samples.add(&[key], *value))
}
