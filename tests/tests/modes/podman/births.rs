//! Containers whose first act is to send.

use anyhow::{Context as _, Result};
use dtm_tests::{
    far::{Far, UDP, Version, udp_count},
    scene::{PATIENCE, Scene},
    tally::Ways,
};
use xtask::host::{EngineKind, EngineOptions, eventually};

use super::stage::{wait_on_host, watch};
use crate::{
    facts::{agree, sent},
    host::stage::{datagrams, labels},
};

const LIVES: u64 = 12;
const DATAGRAMS: u64 = 100;
const SIZE: u64 = 500;

/// Podman tells of a container after its group was made, and often after its first datagram: not one is missed. One that
/// Podman has removed before it tells has no name; so these stay.
pub(super) fn first_datagrams() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::Podman))?;
    watch(&mut scene, &["--log.level", "debug"])?;
    let far = Far::new(scene.host(), 1)?;
    let arrived = || udp_count(far.network(), "InDatagrams");
    let before = arrived()?;
    let to = far.port(Version::V4, UDP);
    let (count, size) = (DATAGRAMS.to_string(), SIZE.to_string());
    let names: Vec<_> = (0..LIVES).map(|number| format!("first{number}")).collect();
    for name in &names {
        scene.run(name, "host", &["traffic", "udp-send", &to, &count, &size])?;
    }
    eventually(PATIENCE, "all have arrived", || {
        Ok((arrived()? - before >= LIVES * DATAGRAMS).then_some(()))
    })?;
    agree("arrived", arrived()? - before, LIVES * DATAGRAMS)?;
    let truth = sent(datagrams(Version::V4, DATAGRAMS, SIZE));
    for name in &names {
        wait_on_host(&scene, name)
            .with_context(|| scene.dtm().map(dtm_tests::daemon::Dtm::log).unwrap_or_default())?;
    }
    let samples = scene.samples()?;
    let mut missed = Vec::new();
    for name in names {
        let shown = Ways::shown(&samples, &labels(&name))?;
        if shown != truth {
            missed.push((name, shown));
        }
    }
    agree("not as they were sent", missed, Vec::new())
}
