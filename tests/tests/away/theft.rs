//! Somebody takes dtm's programs off while nobody watches: the next dtm says so, attaches again and counts exactly from then
//! on. What was counted before stays.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    attached,
    foreign::{Side, detach_link, tcx_links},
    pins::{self, BPFFS},
    scene::{Endpoint, PATIENCE, Scene},
};
use xtask::host::{EngineKind, eventually};

use crate::stage::{Stage, found, grows_exactly};

const VICTIM: &str = "victim";

/// How dtm's own filters are found.
const OURS: &str = "prio 1 handle 0x64746d protocol all bpf";

/// What somebody does to the victim's interface, called so at the host's end.
type Theft = fn(&Scene, &Endpoint, &str) -> Result<()>;

fn detaches_a_link(scene: &Scene, victim: &Endpoint, _host_end: &str) -> Result<()> {
    let links = tcx_links(&scene.host().network()?, victim.host_end, Side::Egress)?;
    detach_link(*links.first().context("a link")?)
}

fn removes_a_pin(scene: &Scene, victim: &Endpoint, _host_end: &str) -> Result<()> {
    let network = scene.host().network()?;
    let links = || tcx_links(&network, victim.host_end, Side::Ingress);
    let link = *links()?.first().context("a link")?;
    let pins = pins::links(scene.host())?;
    // A link's number ends its name.
    let pin = pins.iter().find(|pin| pin.ends_with(&format!("-{link}")));
    let pin = pin.with_context(|| format!("no pin of the link {link} among {pins:?}"))?;
    scene.host().run("rm", [format!("{BPFFS}/{pin}")])?;
    eventually(PATIENCE, "the link has gone", || {
        Ok(links()?.is_empty().then_some(()))
    })
}

fn deletes_a_filter(scene: &Scene, _victim: &Endpoint, host_end: &str) -> Result<()> {
    let filter = format!("filter delete dev {host_end} egress {OURS}");
    scene.host().run("tc", filter.split(' ')).map(drop)
}

fn deletes_the_qdisc(scene: &Scene, _victim: &Endpoint, host_end: &str) -> Result<()> {
    let qdisc = ["qdisc", "delete", "dev", host_end, "clsact"];
    scene.host().run("tc", qdisc).map(drop)
}

/// dtm's programs at an interface.
fn programs_at(scene: &Scene, host_end: &str) -> Result<usize> {
    let all = attached::to_interfaces(scene.host())?;
    Ok(all
        .iter()
        .filter(|(interface, _how)| interface == host_end)
        .count())
}

fn what_was_taken_off_is_attached_again(
    kind: EngineKind,
    mode: &'static str,
    thefts: &[(&str, Theft)],
) -> Result<()> {
    let mut stage = Stage::new(kind, mode)?;
    stage.sender(VICTIM, 100)?;
    let victim = stage.endpoint(VICTIM)?;
    let links = stage.scene.host().links()?;
    let host_end = links.iter().find(|link| link.ifindex == victim.host_end);
    let host_end = &host_end.context("a host end")?.name;
    for (what, theft) in thefts {
        let (_kernel, counted) = stage.scene.both(&victim)?;
        stage.scene.kill_dtm()?;
        theft(&stage.scene, &victim, host_end).with_context(|| format!("somebody {what}"))?;
        ensure!(
            programs_at(&stage.scene, host_end)? < 2,
            "nothing was taken off when somebody {what}"
        );
        stage.send(VICTIM, 20)?;
        stage.start()?;
        eventually(PATIENCE, &format!("it is noticed that somebody {what}"), || {
            let reattached = stage.scene.samples()?.get("dtm_reattached_total", &[])?;
            let noticed = found(&stage.scene, "detached")? + reattached >= 1;
            Ok((noticed && programs_at(&stage.scene, host_end)? == 2).then_some(()))
        })?;
        let before = stage.scene.both(&victim)?;
        let (_kernel, now) = before;
        ensure!(
            now.0 >= counted.0 && now.1 >= counted.1,
            "{now:?} after {counted:?}: what was counted is lost when somebody {what}"
        );
        stage.send(VICTIM, 50)?;
        grows_exactly(&stage.scene, &victim, before).with_context(|| format!("after somebody {what}"))?;
    }
    everything_is_begun_anew(stage, &victim, host_end)
}

/// Somebody removes all pins: dtm knows nothing any more, and what is still attached does not count beside its own.
fn everything_is_begun_anew(mut stage: Stage, victim: &Endpoint, host_end: &str) -> Result<()> {
    stage.scene.kill_dtm()?;
    let arguments = stage.arguments();
    let mut scene = stage.finish()?;
    let ours = scene.host().outside(&format!("{BPFFS}/dtm"));
    fs::remove_dir_all(&ours).with_context(|| format!("remove {}", ours.display()))?;
    scene.start_dtm(&arguments)?;
    scene.wait_named(victim)?;
    let before = scene.both(victim)?;
    let to = scene.address("receiver", &victim.network, false)?;
    scene.exec(
        VICTIM,
        &["traffic", "udp-send", &format!("{to}:5002"), "50", "500"],
    )?;
    grows_exactly(&scene, victim, before).context("after somebody has removed all pins")?;
    let links = pins::links(scene.host())?;
    let unpinned: Vec<_> = tcx_links(&scene.host().network()?, victim.host_end, Side::Ingress)?
        .into_iter()
        .filter(|link| !links.iter().any(|pin| pin.ends_with(&format!("-{link}"))))
        .collect();
    ensure!(unpinned.is_empty(), "these are not pinned: {unpinned:?}");
    ensure!(
        programs_at(&scene, host_end)? == 2,
        "others than its own are left"
    );
    Ok(())
}

#[test]
fn links_that_were_taken_off_are_attached_again() -> Result<()> {
    what_was_taken_off_is_attached_again(
        EngineKind::Current,
        "tcx",
        &[
            ("detaches a link", detaches_a_link),
            ("removes a pin", removes_a_pin),
        ],
    )
}

#[test]
fn filters_that_were_taken_off_are_attached_again() -> Result<()> {
    what_was_taken_off_is_attached_again(
        EngineKind::Old,
        "clsact",
        &[
            ("deletes a filter", deletes_a_filter),
            ("deletes the qdisc", deletes_the_qdisc),
        ],
    )
}
