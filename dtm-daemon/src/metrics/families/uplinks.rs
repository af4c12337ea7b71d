//! Families of what arrives at the host, before its firewall.

use std::fmt;

use dtm_common::views::{Protocol, Volume};

use super::{Family, Section};
use crate::{
    bpf::XdpMode,
    metrics::{Scrape, samples::Samples},
};

const PROTOCOLS: &[&str] = &["interface", "protocol"];

pub(super) const SECTION: Section = Section {
    title: "Uplinks",
    families: &[
        Family {
            name: "dtm_uplink_receive_bytes_total",
            labels: PROTOCOLS,
            help: "Bytes that arrived at an interface named with --xdp, before the host's firewall, layer 2 header included, by protocol (tcp, udp, icmp, other).",
            samples: |scrape, samples| volumes(scrape, samples, |volume| volume.bytes),
        },
        Family {
            name: "dtm_uplink_receive_packets_total",
            labels: PROTOCOLS,
            help: "Frames that arrived at an interface named with --xdp, before the host's firewall, by protocol (tcp, udp, icmp, other); in generic mode a buffer that the kernel has merged is one.",
            samples: |scrape, samples| volumes(scrape, samples, |volume| volume.packets),
        },
        Family {
            name: "dtm_uplink_receive_tcp_syns_total",
            labels: &["interface"],
            help: "Of the frames of protocol tcp that arrived at an interface named with --xdp, those that ask for a connection: SYN without ACK.",
            samples: |scrape, samples| {
                let mut uplinks = scrape.snapshot.uplinks.iter();
                uplinks.try_for_each(|uplink| samples.add(&[&uplink.interface], uplink.syns))
            },
        },
        Family {
            name: "dtm_uplink_attached",
            labels: &["interface", "mode"],
            help: "1 for how dtm counts at an interface named with --xdp: in its driver (native) or in the kernel's stack (generic). 0 for both where it does not, and the log says why.",
            samples: |scrape, samples| {
                for uplink in &scrape.snapshot.uplinks {
                    for mode in XdpMode::ALL.map(XdpMode::as_str) {
                        samples.add(&[&uplink.interface, mode], uplink.mode == Some(mode))?;
                    }
                }
                Ok(())
            },
        },
    ],
};

fn volumes(scrape: &Scrape, samples: &mut Samples<'_>, count: fn(&Volume) -> u64) -> fmt::Result {
    for uplink in &scrape.snapshot.uplinks {
        for (protocol, volume) in Protocol::ALL.iter().zip(&uplink.protocols) {
            samples.add(&[&uplink.interface, protocol.as_str()], count(volume))?;
        }
    }
    Ok(())
}
