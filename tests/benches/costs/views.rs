//! Nanoseconds per packet of the views: by scope and protocol, and of who sends to whom, over an empty program and side by
//! side with totals alone; and what they take of memory.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    path::Path,
};

use anyhow::Result;
use dtm_common::{
    index::InterfaceKey,
    views::{PEER_HOST, PREFIXES, PeerKey, Prefix, ROUTED, SITE_COUNTED, Site, Words},
};
use dtm_daemon::{
    bpf::{Kernel, Limits},
    config::DEFAULT_BTF,
};

use crate::{
    programs::{BPF_PROG_TYPE_SCHED_CLS, MEASUREMENTS, REPEAT, empty_program, nanoseconds},
    spread,
};

/// The number of the network's addresses.
const SPACE: u64 = 7;

/// What is counted, by name.
const LIMITS: [(&str, bool, u32); 3] = [
    ("totals only", false, 0),
    ("+ scope", true, 0),
    ("+ scope + matrix", true, 2_000),
];

/// Where packets go, by name: the last part of the address in either IP's network, or somewhere else.
const CASES: [(&str, Peer); 3] = [
    ("to a neighbour", Peer::Neighbour),
    ("to the host", Peer::Host),
    ("to the internet", Peer::Internet),
];

#[derive(Clone, Copy)]
enum Peer {
    Neighbour,
    Host,
    Internet,
}

fn v4(peer: Peer) -> Ipv4Addr {
    match peer {
        Peer::Neighbour => Ipv4Addr::new(172, 18, 0, 3),
        Peer::Host => Ipv4Addr::new(172, 18, 0, 1),
        Peer::Internet => Ipv4Addr::new(198, 51, 100, 9),
    }
}

fn v6(peer: Peer) -> Ipv6Addr {
    match peer {
        Peer::Neighbour => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3),
        Peer::Host => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1),
        Peer::Internet => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9),
    }
}

/// A TCP segment from a container to its peer; 1,400 bytes above IP.
fn packet(peer: Peer, is_ipv6: bool) -> Vec<u8> {
    let mut packet = vec![0; 12];
    let own = Peer::Neighbour;
    if is_ipv6 {
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0x05, 0x78, 6, 64]);
        packet.extend(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2).octets());
        packet.extend(v6(peer).octets());
    } else {
        packet.extend([0x08, 0x00, 0x45, 0, 0x05, 0x8c, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        let mut source = v4(own).octets();
        source[3] = 2;
        packet.extend(source);
        packet.extend(v4(peer).octets());
    }
    packet.extend([0x9c, 0x40, 0x01, 0xbb]);
    packet.resize(packet.len() + 1_396, 0);
    packet
}

/// A kernel side that knows a container's interface, its network and its neighbour.
fn kernel(scopes: bool, pairs: u32) -> Result<(Kernel, OwnedFd, OwnedFd)> {
    let limits = Limits {
        scopes,
        pairs,
        ..Limits::default()
    };
    let mut kernel = Kernel::load(Path::new(DEFAULT_BTF), limits)?;
    kernel.counters.prepare(0)?;
    let words = |address: IpAddr| Words::of(address.into());
    let mut prefixes = [Prefix::NONE; PREFIXES];
    prefixes[0] = Prefix::new(words(v4(Peer::Host).into()), 96 + 16);
    prefixes[1] = Prefix::new(words(v6(Peer::Host).into()), 64);
    let site = Site {
        number: 1,
        flags: SITE_COUNTED,
        space: SPACE,
        ..Site::default()
    };
    kernel.peers.set_site(0, site.with_prefixes(prefixes))?;
    for (peer, number) in [(Peer::Neighbour, 2), (Peer::Host, PEER_HOST)] {
        for address in [words(v4(peer).into()), words(v6(peer).into())] {
            for space in [SPACE, ROUTED] {
                kernel.peers.set_peer(PeerKey { space, address }, Some(number))?;
            }
        }
    }
    kernel.enter(InterfaceKey { netns: 0, ifindex: 1 }, 0)?;
    let (transmit, receive) = kernel.classifiers()?;
    Ok((kernel, transmit, receive))
}

pub(crate) fn run() -> Result<()> {
    println!(
        "\nns per packet of the views over an empty TC program: min / median / max of {MEASUREMENTS} × {REPEAT} runs"
    );
    let empty = empty_program(BPF_PROG_TYPE_SCHED_CLS, -1)?;
    let mut kernels = Vec::new();
    for (name, scopes, pairs) in LIMITS {
        kernels.push((name, kernel(scopes, pairs)?));
    }
    for (ip, is_ipv6) in [("IPv4", false), ("IPv6", true)] {
        for (case, peer) in CASES {
            let packet = packet(peer, is_ipv6);
            let mut over = vec![Vec::new(); kernels.len()];
            for _ in 0..MEASUREMENTS {
                let nothing = nanoseconds(&empty, 1, &packet, None)?;
                for (over, (_name, (_kernel, transmit, _receive))) in over.iter_mut().zip(&kernels) {
                    over.push(nanoseconds(transmit, 1, &packet, None)? - nothing);
                }
            }
            for ((name, _kernel), over) in kernels.iter().zip(&mut over) {
                println!("  {ip} {case}: {name} +{}", spread(over));
            }
        }
    }
    Ok(())
}
