//! Traffic that never stops.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::udp_count,
    known::port_of,
    scene::{Endpoint, SILENT, Scene},
};
use xtask::host::Network;

use crate::stage::{Both, is_exact};

const TALKER: &str = "talker";
const LISTENER: &str = "listener";

/// What the kernel says of a datagram that nobody waits for.
const NOBODY_LISTENS: (&str, &str) = ("reason", "no_socket");

/// Two long-living containers, one of which talks to the other without end: datagrams, connections, and datagrams to
/// itself that nobody waits for.
pub(crate) struct Load {
    ends: [Endpoint; 2],
    /// The talker's first process.
    process: u32,
}

/// What was counted in a moment in which the talker paused.
pub(crate) struct Moment {
    ends: [Both; 2],
    /// Datagrams of the talker's that nobody waited for: the kernel's count, and dtm's.
    lost: (u64, u64),
}

impl Load {
    /// Starts both, and waits until dtm shows them.
    pub(crate) fn start(scene: &Scene) -> Result<Self> {
        let load = Self::unwatched(scene)?;
        load.wait_named(scene)?;
        Ok(load)
    }

    /// Starts both; dtm need not be there.
    pub(crate) fn unwatched(scene: &Scene) -> Result<Self> {
        let receive = "traffic udp-receive 5002 & exec traffic tcp-receive 5001";
        scene.run(LISTENER, SILENT, &["sh", "-c", receive])?;
        let udp = port_of(scene, LISTENER, SILENT)?;
        let tcp = format!("{}:5001", scene.address(LISTENER, SILENT, false)?);
        let talk = format!(
            "while :; do
                traffic udp-send {udp} 20 700
                traffic tcp-send {tcp} 30000
                traffic udp-send 127.0.0.1:9 1 100
                usleep 2000
            done >/dev/null 2>&1"
        );
        scene.run(TALKER, SILENT, &["sh", "-c", &talk])?;
        let process = ["inspect", "--format", "{{.State.Pid}}", TALKER];
        Ok(Self {
            ends: [scene.endpoint(TALKER, SILENT)?, scene.endpoint(LISTENER, SILENT)?],
            process: scene.engine.docker(process)?.parse().context("the talker runs")?,
        })
    }

    /// Where the one that talks is.
    pub(crate) fn talker(&self) -> &Endpoint {
        &self.ends[0]
    }

    /// Waits until dtm shows both.
    pub(crate) fn wait_named(&self, scene: &Scene) -> Result<()> {
        self.ends.iter().try_for_each(|end| scene.wait_named(end))
    }

    /// Has the talker pause, and reads everything.
    pub(crate) fn moment(&self, scene: &Scene) -> Result<Moment> {
        scene.engine.docker(["pause", TALKER])?;
        let moment = Moment {
            ends: [scene.both(&self.ends[0])?, scene.both(&self.ends[1])?],
            lost: self.lost(scene)?,
        };
        scene.engine.docker(["unpause", TALKER])?;
        Ok(moment)
    }

    fn lost(&self, scene: &Scene) -> Result<(u64, u64)> {
        let kernel = udp_count(&Network::of_process(self.process)?, "NoPorts")?;
        let labels = [("name", TALKER), NOBODY_LISTENS];
        let counted = scene
            .samples()?
            .sum("dtm_container_network_dropped_packets_total", &labels);
        Ok((kernel, counted))
    }

    /// Holds dtm to all that the kernel has counted since the interfaces were born.
    pub(crate) fn is_whole(&self, moment: &Moment) -> Result<()> {
        for (end, (kernel, counted)) in self.ends.iter().zip(moment.ends) {
            ensure!(
                counted == kernel,
                "{end:?}: counted {counted:?}, the kernel {kernel:?}"
            );
        }
        Ok(())
    }

    /// Holds dtm to having counted no more than the kernel since the interfaces were born.
    pub(crate) fn is_not_too_much(&self, moment: &Moment) -> Result<()> {
        for (end, (kernel, counted)) in self.ends.iter().zip(moment.ends) {
            ensure!(
                counted.0 <= kernel.0 && counted.1 <= kernel.1,
                "{end:?}: counted {counted:?}, the kernel {kernel:?}"
            );
        }
        Ok(())
    }

    /// Holds dtm's growth between two moments to the kernel's.
    pub(crate) fn is_exact(&self, before: &Moment, after: &Moment) -> Result<()> {
        let moments = before.ends.into_iter().zip(after.ends);
        self.ends
            .iter()
            .zip(moments)
            .try_for_each(|(end, (before, after))| is_exact(end, before, after))
    }
}

impl Moment {
    /// Holds dtm to the kernel's count of datagrams that nobody waited for.
    pub(crate) fn loses_exactly(&self, before: &Self) -> Result<()> {
        let (kernel, counted) = (self.lost.0 - before.lost.0, self.lost.1 - before.lost.1);
        ensure!(
            counted == kernel,
            "{counted} drops were counted, the kernel says {kernel}"
        );
        ensure!(kernel > 0, "nothing was lost");
        Ok(())
    }
}
