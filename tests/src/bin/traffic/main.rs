//! Sends and receives exactly what it is told, so that a test knows what went over the wire. Runs in the test's
//! containers.
//!
//! ```text
//! traffic udp-send ADDRESS:PORT DATAGRAMS SIZE [SEGMENT]   with SEGMENT, as UDP_SEGMENT buffers of SIZE
//! traffic udp-receive PORT                                 for ever
//! traffic udp-receive-merged PORT                          for ever, with UDP_GRO
//! traffic tcp-send ADDRESS:PORT BYTES                      waits until the other side has read all of it
//! traffic tcp-receive PORT                                 for ever
//! traffic frames INTERFACE FRAMES FRAME [bypass]           FRAME in hexadecimal; past every qdisc
//! traffic buffers INTERFACE BUFFERS FRAME TYPE HEADERS SEGMENT
//!                                                          as GSO buffers: see packets.rs
//! traffic frame-stream INTERFACE FRAME                     one every millisecond, until there is no such interface
//! traffic xdp-pass INTERFACE                               an XDP program that passes everything, until it is ended
//! ```

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
