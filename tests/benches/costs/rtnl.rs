//! How long others wait for RTNL: a prober that takes it over and over.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use dtm_daemon::net::Requests;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
};
use xtask::host::Network;

use crate::pause;

/// Between two requests.
const PAUSE: Duration = Duration::from_micros(200);

/// Milliseconds of each request that had to take RTNL while `work` ran.
pub(crate) fn probed<T>(network: &Network, work: impl FnOnce() -> Result<T>) -> Result<(T, Vec<f64>)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| network.enter(|| probe(&done)));
        let result = work();
        done.store(true, Ordering::Relaxed);
        let waits = prober.join().ok().context("the prober panicked")???;
        Ok((result?, waits))
    })
}

fn probe(done: &AtomicBool) -> Result<Vec<f64>> {
    let mut requests = Requests::open()?;
    // Switching on a loopback that is on changes nothing, but the kernel takes RTNL to find that out.
    let mut message = LinkMessage::default();
    message.header.index = 1;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    let mut waits = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        requests.acknowledged(RouteNetlinkMessage::SetLink(message.clone()), 0)?;
        waits.push(start.elapsed().as_secs_f64() * 1e3);
        // Without a pause this would be what holds the others up.
        pause(PAUSE);
    }
    Ok(waits)
}
