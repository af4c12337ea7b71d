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
//! traffic tcp-connections ADDRESS:PORT TIMES BYTES         the same, one connection after the other
//! traffic tcp-receive PORT                                 for ever
//! traffic tcp-leave ADDRESS:PORT BYTES                     hangs up first, without waiting for the other side's end
//! traffic tcp-hold PORT                                    reads one connection to its end and never hangs up
//! traffic tcp-refused ADDRESS:PORT TIMES                   where nobody listens
//! traffic tcp-keep ADDRESS:PORT TIMES                     opens as many and keeps them, for ever
//! traffic tcp-echo PORT                                    for ever
//! traffic tcp-ping ADDRESS:PORT TIMES SIZE                 waits for each answer
//! traffic tcp-neglect PORT                                 for ever, without accepting anybody
//! traffic tcp-give-up ADDRESS:PORT TIMES                   where nobody answers, 20 ms each
//! traffic tcp-try ADDRESS:PORT                             once, and prints "connected" or the error's number
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
mod talking;
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
        ["tcp-connections", to, count, bytes] => {
            let (count, bytes) = (count.parse()?, bytes.parse()?);
            (0..count).try_for_each(|_: u32| sockets::tcp_send(to, bytes))
        }
        ["tcp-send", to, bytes] => sockets::tcp_send(to, bytes.parse()?),
        ["tcp-receive", port] => sockets::tcp_receive(port.parse()?),
        ["tcp-keep", to, times] => talking::tcp_keep(to, times.parse()?),
        ["tcp-echo", port] => talking::tcp_echo(port.parse()?),
        ["tcp-ping", to, times, size] => talking::tcp_ping(to, times.parse()?, size.parse()?),
        ["tcp-neglect", port] => talking::tcp_neglect(port.parse()?),
        ["tcp-give-up", to, times] => talking::tcp_give_up(to, times.parse()?),
        ["tcp-try", to] => {
            talking::tcp_try(to);
            Ok(())
        }
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
