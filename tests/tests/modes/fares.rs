//! How containers' connections fare, and what is dropped for them, in every mode of a network.

use anyhow::{Result, ensure};
use dtm_tests::{
    rules::matched,
    scene::{PATIENCE, Scene},
    tcp::same_as_kernel,
};
use xtask::host::eventually;

use crate::places::inside;

/// Where nobody listens, and what a rule throws away.
pub(crate) const CLOSED: u16 = 5999;
pub(crate) const BARRED: u16 = 5998;

const DROPPED: &str = "dtm_container_network_dropped_packets_total";

/// Holds the connections that a container asks for to its kernel's counters; at least so many come about, and so many do
/// not.
pub(crate) fn asks(
    scene: &Scene,
    name: &str,
    (opened, failed): (u64, u64),
    action: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let since = same_as_kernel(scene, name, action)?;
    ensure!(
        since.client >= opened && since.all_failed() == failed && since.segments > 0,
        "{name} has asked for fewer: {since:?}"
    );
    Ok(())
}

/// The same, of those that it is asked for.
pub(crate) fn serves(
    scene: &Scene,
    name: &str,
    opened: u64,
    action: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let since = same_as_kernel(scene, name, action)?;
    ensure!(since.server >= opened, "{name} was asked for fewer: {since:?}");
    Ok(())
}

/// A rule in a container's namespace throws away what is sent to [`BARRED`]: every packet is the container's, and no other is.
pub(crate) fn loses(scene: &Scene, name: &str, action: impl FnOnce() -> Result<()>) -> Result<()> {
    let network = inside(scene, name)?;
    let rule = format!(
        "table inet barred {{ chain i {{ type filter hook input priority 0; udp dport {BARRED} counter drop; }}; }}"
    );
    network.run("nft", [rule])?;
    let of = [
        ("name", name),
        ("direction", "receive"),
        ("reason", "netfilter_drop"),
    ];
    let all = || {
        let samples = scene.samples()?;
        Ok::<_, anyhow::Error>((samples.sum(DROPPED, &of), samples.sum(DROPPED, &of[2..])))
    };
    let before = all()?;
    action()?;
    let truth = matched(&network, "barred")?;
    network.run("nft", ["delete", "table", "inet", "barred"])?;
    ensure!(truth > 0, "the rule has matched nothing");
    let mut last = before;
    let counted = eventually(PATIENCE, "what was thrown away", || {
        last = all()?;
        Ok((last == (before.0 + truth, before.1 + truth)).then_some(()))
    });
    ensure!(
        counted.is_ok(),
        "{name}: {before:?}, then {last:?}: the rule says {truth}"
    );
    Ok(())
}
