//! Nanoseconds per frame of the program at an uplink over an XDP program that does nothing, in test runs by the kernel.

use std::path::Path;

use anyhow::Result;
use dtm_daemon::{
    bpf::{Kernel, Limits},
    config::DEFAULT_BTF,
};
use dtm_tests::packets::PacketBuilder;

use crate::{
    programs::{MEASUREMENTS, NO_CONTEXT, REPEAT, empty_program, nanoseconds},
    spread,
};

const BPF_PROG_TYPE_XDP: u32 = 6;
const XDP_PASS: i32 = 2;

pub(crate) fn run() -> Result<()> {
    println!(
        "\nns per frame of dtm_uplink over an empty XDP program: min / median / max of {MEASUREMENTS} × {REPEAT} runs"
    );
    let kernel = Kernel::load(Path::new(DEFAULT_BTF), Limits::default())?;
    let program = kernel.template().uplink(0)?;
    let empty = empty_program(BPF_PROG_TYPE_XDP, XDP_PASS)?;
    let ethernet = PacketBuilder::ethernet;
    let packet = ethernet().ipv4().tcp();
    let mut syn = packet.build();
    syn[packet.transport_offset() + 13] = 0x02;
    for (case, frame) in [
        ("IPv4, a SYN", syn),
        ("IPv4, UDP", ethernet().ipv4().udp(53).payload(1000).build()),
        ("IPv6, TCP", ethernet().ipv6().tcp().payload(1000).build()),
        (
            "a VLAN tag, IPv4, TCP",
            ethernet().vlan(7).ipv4().tcp().payload(1000).build(),
        ),
        ("ARP", ethernet().arp().build()),
    ] {
        let (mut base, mut over) = (Vec::new(), Vec::new());
        for _ in 0..MEASUREMENTS {
            let nothing = nanoseconds(&empty, NO_CONTEXT, &frame, None)?;
            base.push(nothing);
            over.push(nanoseconds(&program, NO_CONTEXT, &frame, None)? - nothing);
        }
        println!("  {case}: empty {}; +{}", spread(&mut base), spread(&mut over));
    }
    Ok(())
}
