//! Sends and receives exactly what it is told, so that a test knows what went over the wire. Runs in the test's
//! containers.
//!
//! ```text
//! traffic udp-send ADDRESS:PORT DATAGRAMS SIZE [SEGMENT]   with SEGMENT, as UDP_SEGMENT buffers of SIZE
//! traffic udp-receive PORT                                 for ever
//! traffic udp-receive-merged PORT                          for ever, with UDP_GRO
//! traffic udp-neglect PORT                                 for ever, with a small buffer and without reading it
//! traffic multicast-receive GROUP:PORT INTERFACE SOCKETS   for ever, on as many sockets; INTERFACE is an address
//! traffic tcp-send ADDRESS:PORT BYTES                      waits until the other side has read all of it
//! traffic tcp-receive PORT                                 for ever
//! traffic tcp-leave ADDRESS:PORT BYTES                     hangs up first, without waiting for the other side's end
//! traffic tcp-hold PORT                                    reads one connection to its end and never hangs up
//! traffic tcp-refused ADDRESS:PORT TIMES                   where nobody listens
//! traffic frames INTERFACE FRAMES FRAME [bypass]           FRAME in hexadecimal; past every qdisc
//! traffic buffers INTERFACE BUFFERS FRAME TYPE HEADERS SEGMENT
//!                                                          as GSO buffers: see packets.rs
//! traffic frame-stream INTERFACE FRAME                     one every millisecond, until there is no such interface
//! traffic xdp-pass INTERFACE                               an XDP program that passes everything, until it is ended
//! ```

mod deaf;
mod hanging_up;
mod options;
mod packets;
mod sockets;
mod xdp;

use std::env;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["udp-send", to, count, size] => sockets::udp_send(to, count.parse()?, size.parse()?, None),
        ["udp-send", to, count, size, segment] => {
            sockets::udp_send(to, count.parse()?, size.parse()?, Some(segment.parse()?))
        }
        ["udp-receive", port] => sockets::udp_receive(port.parse()?, false),
        ["udp-receive-merged", port] => sockets::udp_receive(port.parse()?, true),
        ["udp-neglect", port] => deaf::udp_neglect(port.parse()?),
        ["multicast-receive", group, interface, sockets] => {
            deaf::multicast_receive(group.parse()?, interface.parse()?, sockets.parse()?)
        }
        ["tcp-leave", to, bytes] => hanging_up::tcp_leave(to, bytes.parse()?),
        ["tcp-hold", port] => hanging_up::tcp_hold(port.parse()?),
        ["tcp-refused", to, times] => hanging_up::tcp_refused(to, times.parse()?),
        ["tcp-send", to, bytes] => sockets::tcp_send(to, bytes.parse()?),
        ["tcp-receive", port] => sockets::tcp_receive(port.parse()?),
        ["frames", interface, count, frame] => packets::frames(interface, count.parse()?, frame, false),
        ["frames", interface, count, frame, "bypass"] => {
            packets::frames(interface, count.parse()?, frame, true)
        }
        ["buffers", interface, count, frame, kind, headers, segment] => {
            let segmentation = packets::Segmentation::parse(kind, headers.parse()?, segment.parse()?)?;
            packets::buffers(interface, count.parse()?, frame, segmentation)
        }
        ["frame-stream", interface, frame] => packets::stream(interface, frame),
        ["xdp-pass", interface] => xdp::pass(interface),
        _ => bail!("see the top of main.rs"),
    }
}
