//! The second view of a packet that a slot has counted: where its other side is, by which protocol, and who sent it to
//! whom. What is switched off is not in the program.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use dtm_common::{
    errors::ERROR_NO_SLOT,
    packet::{Head, Packet as _, head, head_from_ip},
    traffic::{Direction, Tally},
    views::{
        CHUNK, PORTS_PER_WORD, PROTOCOLS, SCOPES, SERVICES, SITE_COUNTED, Scope, Service, Site, ViewTally,
        Volume, service,
    },
};

use crate::{
    counters::Add,
    flows,
    maps::{CHUNKS, COUNT_FLOWS, COUNT_SCOPES, PORTS, SITES, VIEWS, count_error},
    peers,
    skb::SkbPacket,
};

/// Which header a hook's packets begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Ethernet's.
    LinkLayer,
    /// IP's.
    NetworkLayer,
}

/// Adds a packet to the views of its slot; `added` is what it is to the totals.
#[inline(always)]
pub(crate) fn count<A: Add>(packet: &SkbPacket, start: Start, slot: u32, direction: Direction, added: Tally) {
    let (scopes, flows) = (COUNT_SCOPES.load() != 0, COUNT_FLOWS.load() != 0);
    if !scopes && !flows {
        return;
    }
    let Some(site) = SITES.get_ptr(slot) else {
        return;
    };
    // SAFETY: the verifier has checked the pointer; the daemon may change what is there, which is integers.
    let site = unsafe { &*site };
    if site.flags & SITE_COUNTED == 0 {
        return;
    }
    let head = match start {
        Start::LinkLayer => head(packet),
        Start::NetworkLayer => head_from_ip(packet),
    };
    let head = Head {
        is_ip: packet.hide(head.is_ip.into()) != 0,
        is_request: packet.hide(head.is_request.into()) != 0,
        is_reset: packet.hide(head.is_reset.into()) != 0,
        ..head
    };
    let cell = packet.hide(head.protocol as u32);
    let peer = peers::find(site, &head, direction);
    let scope = packet.hide(peer.scope as u32);
    let peer = packet.hide(peer.number);
    if scopes {
        let cell = scope * PROTOCOLS as u32 + cell;
        // The programs of a control group do not see what the kernel itself sends: tracepoints count for these.
        let is_reset = head.is_reset && start == Start::LinkLayer;
        view::<A>(slot, direction, added, cell, &Head { is_reset, ..head });
    }
    if flows {
        flow::<A>(packet, site, direction, added, peer);
    }
}

#[inline(always)]
fn view<A: Add>(slot: u32, direction: Direction, added: Tally, cell: u32, head: &Head) {
    let Some(tally) = tally_of(slot, direction) else {
        count_error(ERROR_NO_SLOT);
        return;
    };
    // Never: for the verifier, which does not know.
    if cell as usize >= SCOPES * PROTOCOLS {
        return;
    }
    // SAFETY: the verifier has checked the pointer and the indices, and the counters are aligned.
    unsafe {
        let is_internet = cell / PROTOCOLS as u32 == Scope::Internet as u32;
        let cell = (&raw mut (*tally).cells).cast::<Volume>().add(cell as usize);
        A::add(&raw mut (*cell).bytes, added.bytes);
        A::add(&raw mut (*cell).packets, added.packets);
        if is_internet {
            let (source, destination) = (service_of(head.source_port), service_of(head.destination_port));
            let service = match direction {
                Direction::Receive => service(source, destination),
                Direction::Transmit => service(destination, source),
            };
            let service = service as usize % SERVICES;
            let service = (&raw mut (*tally).services).cast::<u64>().add(service);
            A::add(service, added.bytes);
        }
        if head.is_request {
            A::add(&raw mut (*tally).syns, added.packets);
        }
        if head.is_reset {
            A::add(&raw mut (*tally).resets, added.packets);
        }
    }
}

/// The number of the service that a port stands for.
#[inline(always)]
fn service_of(port: u16) -> u32 {
    let port = u32::from(port);
    match PORTS.get_ptr(port / PORTS_PER_WORD) {
        // SAFETY: the verifier has checked the pointer.
        Some(word) => (unsafe { *word } >> (2 * (port % PORTS_PER_WORD))) as u32 % SERVICES as u32,
        None => Service::Other as u32,
    }
}

/// This CPU's view of a slot and a direction.
#[inline(always)]
fn tally_of(slot: u32, direction: Direction) -> Option<*mut ViewTally> {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let chunk = cpu * CHUNKS.load() + slot / CHUNK;
    let counters = VIEWS.get_value_ptr_mut(chunk, &(slot % CHUNK))?;
    // SAFETY: the verifier has checked the pointer; only the address of a field is taken.
    Some(unsafe {
        match direction {
            Direction::Receive => &raw mut (*counters).receive,
            Direction::Transmit => &raw mut (*counters).transmit,
        }
    })
}

/// Each byte once: where a container sends it, or where one receives what no other container has sent.
#[inline(always)]
fn flow<A: Add>(packet: &SkbPacket, site: &Site, direction: Direction, added: Tally, peer: u32) {
    match direction {
        Direction::Transmit => flows::add::<A>(site.number, peer, added),
        Direction::Receive if flows::is_counted_elsewhere(packet, peer) => {}
        Direction::Receive => flows::add::<A>(peer, site.number, added),
    }
}
