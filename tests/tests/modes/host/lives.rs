//! How such a series lives.

use anyhow::{Result, ensure};
use dtm_tests::{far::Version, scene::PATIENCE, tally::Ways};
use xtask::host::eventually;

use super::stage::{Listener, Stage, datagrams, labels};
use crate::facts::{INFO, SENT_BYTES, UNCOVERED, agree, sent};

const MORTAL: Listener = Listener {
    name: "mortal",
    udp: 6004,
    tcp: 6104,
};

/// A restart gives the container another control group; its series goes on. After its end the totals stay as they were.
pub(super) fn restart_and_end(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    let far = stage.far_udp(Version::V4);
    stage.start(MORTAL, &["--network", "host"])?;
    stage.send(MORTAL.name, &far, 100, 500)?;
    let has_sent = |datagrams_sent: u64| {
        let truth = sent(datagrams(Version::V4, datagrams_sent, 500));
        let what = format!("{datagrams_sent} datagrams of {}", MORTAL.name);
        eventually(PATIENCE, &what, || {
            let shown = Ways::shown(&scene.samples()?, &labels(MORTAL.name))?;
            ensure!(
                shown.transmit.packets <= datagrams_sent,
                "{shown:?} of {datagrams_sent} datagrams"
            );
            Ok((shown == truth).then_some(()))
        })
    };
    has_sent(100)?;
    scene.engine.docker(["restart", "--time", "0", MORTAL.name])?;
    has_sent(100)?;
    stage.send(MORTAL.name, &far, 200, 500)?;
    has_sent(300)?;
    let of = [("name", MORTAL.name)];
    agree(
        "series over both lives",
        scene.samples()?.all(SENT_BYTES, &of).count(),
        1,
    )?;

    scene.engine.docker(["rm", "--force", MORTAL.name])?;
    eventually(PATIENCE, "its gauges have gone", || {
        let samples = scene.samples()?;
        let left = samples.all(INFO, &of).count() + samples.all(UNCOVERED, &of).count();
        Ok((left == 0).then_some(()))
    })?;
    has_sent(300)
}
