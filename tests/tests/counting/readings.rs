//! What the kernel and dtm count at one place while something happens there.

use std::time::Duration;

use anyhow::{Context as _, Result};
use dtm_tests::{
    daemon::Samples,
    scene::{Endpoint, PATIENCE, Scene},
};
use xtask::host::eventually;

pub(crate) use dtm_tests::tally::{Frames, Reading, Tally, Ways};

/// Where there is something to count.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// The host end of a container's interface.
    Container(Endpoint),
    /// A network's bridge.
    Bridge {
        /// The network's name.
        network: String,
        /// The bridge's index.
        ifindex: u32,
    },
}

impl Place {
    fn ifindex(&self) -> u32 {
        match self {
            Self::Container(endpoint) => endpoint.host_end,
            Self::Bridge { ifindex, .. } => *ifindex,
        }
    }

    /// What the host's end of it sends, the container receives, and what the bridge sends goes into the network.
    fn kernel(&self, scene: &Scene) -> Result<Ways<Frames>> {
        let statistics = scene.host().link_statistics(self.ifindex())?;
        Ok(Ways {
            receive: Frames {
                packets: statistics.tx_packets,
                bytes: statistics.tx_bytes,
            },
            transmit: Frames {
                packets: statistics.rx_packets,
                bytes: statistics.rx_bytes,
            },
        })
    }

    fn ours(&self, samples: &Samples) -> Result<Ways<Tally>> {
        Ways::read(|direction, unit| match self {
            Self::Container(endpoint) => {
                let name = format!("dtm_container_network_{direction}_{unit}_total");
                samples.get(&name, &endpoint.labels())
            }
            Self::Bridge { .. } if unit == "wire_bytes" => Ok(0),
            Self::Bridge { network, .. } => {
                let name = format!("dtm_network_bridge_{direction}_{unit}_total");
                samples.get(&name, &[("network", network)])
            }
        })
    }
}

/// The counters of all `places` at one moment: read again until nothing moves any more.
pub(crate) fn read<const N: usize>(scene: &Scene, places: [&Place; N]) -> Result<[Reading; N]> {
    let kernel = || {
        places
            .iter()
            .map(|place| place.kernel(scene))
            .collect::<Result<Vec<_>>>()
    };
    let mut last = Vec::new();
    let (kernel, samples) = eventually(PATIENCE, "the traffic pauses", || {
        // What waits for a CPU has come by the next look.
        let before = kernel()?;
        if std::mem::replace(&mut last, before.clone()) != before {
            return Ok(None);
        }
        let samples = scene.samples()?;
        Ok((kernel()? == before).then_some((before, samples)))
    })?;
    let mut readings = [Reading::default(); N];
    for ((reading, place), kernel) in readings.iter_mut().zip(places).zip(kernel) {
        *reading = Reading {
            kernel,
            ours: place.ours(&samples)?,
        };
    }
    Ok(readings)
}

/// How much the counters of all `places` grow while `action` happens.
pub(crate) fn during<const N: usize>(
    scene: &Scene,
    places: [&Place; N],
    action: impl FnOnce() -> Result<()>,
) -> Result<[Reading; N]> {
    let before = read(scene, places)?;
    action()?;
    let mut after = read(scene, places)?;
    for (after, before) in after.iter_mut().zip(before) {
        *after = after.since(before);
    }
    Ok(after)
}

/// Waits for a text in what a command of the host's prints.
pub(crate) fn eventually_shows(scene: &Scene, command: &[&str], text: &str) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let what = format!("{text} in the output of {command:?}");
    eventually(Duration::from_secs(10), &what, || {
        let output = scene.host().run(program, arguments)?;
        Ok(output.contains(text).then_some(()))
    })
}
