//! From an interface's birth to its first counted packet: the time until both programs are on it.
#![expect(unsafe_code, reason = "SIOCBRADDIF has no wrapper")]

use std::{
    io,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use dtm_daemon::net::{Requests, dump};
use dtm_tests::daemon::Dtm;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};
use xtask::host::{CgroupWorld, Host};

use crate::{percentile, programs_at::programs_at};

/// How many interfaces are born, one after the other.
const BIRTHS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(5);

/// `include/uapi/linux/sockios.h`.
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
/// What the daemon attaches last, the container's receive side.
const BPF_TCX_EGRESS: u32 = 47;
const PARENT_EGRESS: u32 = 0xffff_fff3;

pub(crate) fn run() -> Result<()> {
    println!(
        "\nms from a veth's enslaving to both programs attached ({BIRTHS} births, one after the other): p50 / p99"
    );
    for mode in ["tcx", "clsact"] {
        let host = Host::new(CgroupWorld::V2)?;
        host.run("ip", ["link", "add", "br0", "type", "bridge"])?;
        let dtm = Dtm::start(
            &host,
            &[
                "--attach-mode",
                mode,
                "--docker.host",
                "unix:///run/no-docker.sock",
            ],
        )?;
        let mut milliseconds = Vec::new();
        for number in 0..BIRTHS {
            let (end, peer) = (format!("v{number}"), format!("p{number}"));
            host.run("ip", ["link", "add", &end, "type", "veth", "peer", "name", &peer])?;
            let waited = host.network()?.enter(|| birth(&end, mode))??;
            milliseconds.push(waited.as_secs_f64() * 1e3);
        }
        dtm.stop()?;
        let (half, most) = (
            percentile(&mut milliseconds, 50),
            percentile(&mut milliseconds, 99),
        );
        println!("  {mode}: {half:.2} / {most:.2}");
    }
    Ok(())
}

/// Enslaves the interface and waits until its last program is attached. Runs in the host's namespace.
fn birth(name: &str, mode: &str) -> Result<Duration> {
    let mut requests = Requests::open()?;
    let links = dump(&mut requests)?;
    let ifindex = links
        .iter()
        .find(|link| &*link.name == name)
        .context("the new interface")?
        .ifindex;
    let start = Instant::now();
    enslave("br0", ifindex)?;
    loop {
        let attached = match mode {
            "tcx" => programs_at(ifindex, BPF_TCX_EGRESS)? > 0,
            _ => !filters(&mut requests, ifindex)?.is_empty(),
        };
        if attached {
            return Ok(start.elapsed());
        }
        if start.elapsed() > PATIENCE {
            bail!("nothing was attached to {name} within {PATIENCE:?}");
        }
    }
}

fn enslave(bridge: &str, ifindex: u32) -> Result<()> {
    // Any socket takes the ioctl.
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bridge.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_ifindex = ifindex.cast_signed();
    // SAFETY: the request lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCBRADDIF, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error()).context("enslave an interface")
    } else {
        Ok(())
    }
}

fn filters(requests: &mut Requests, ifindex: u32) -> Result<Vec<RouteNetlinkMessage>> {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::from(PARENT_EGRESS);
    match requests.dump(&RouteNetlinkMessage::GetTrafficFilter(message)) {
        Ok(filters) => Ok(filters),
        // There is no qdisc yet.
        Err(error) if error.is(libc::EINVAL) || error.is(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error).context("ask for the filters of an interface"),
    }
}
