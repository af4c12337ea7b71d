//! `--no-pin`: what a dtm does goes with it.

use anyhow::Result;
use dtm_tests::{
    attached,
    known::{goes_on, has_sent},
    objects::Objects,
    scene::PATIENCE,
};
use rustix::process::Signal;
use xtask::host::{EngineKind, eventually};

use crate::{
    leavings::{Leavings, detach_everything},
    stage::Stage,
};

fn what_is_not_pinned_goes_with_dtm(kind: EngineKind, mode: &'static str) -> Result<()> {
    let mut stage = Stage::new(kind, mode)?;
    let id = stage.sender("steady", 100)?;
    let endpoint = stage.endpoint("steady")?;
    stage.scene.kill_dtm()?;
    stage.send("steady", 50)?;
    // What an earlier one has left is gone on with, and pinned no more.
    let arguments = [&stage.arguments()[..], &["--no-pin"]].concat();
    stage.scene.start_dtm(&arguments)?;
    has_sent(&stage.scene, &id, 150)?;
    goes_on(&stage.scene, &id, &endpoint, (0, 0))?;
    eventually(PATIENCE, "nothing is pinned any more", || {
        let has_pins = Leavings::of(stage.scene.host())?.has_pins_of_dtm();
        Ok((!has_pins).then_some(()))
    })?;
    stage.send("steady", 50)?;
    has_sent(&stage.scene, &id, 200)?;
    goes_on(&stage.scene, &id, &endpoint, (0, 0))?;
    let mut scene = stage.finish()?;
    for signal in [Signal::TERM, Signal::INT] {
        let objects = Objects::of(scene.dtm()?.id())?;
        scene.end_dtm(signal)?;
        assert_eq!(attached::to_interfaces(scene.host())?, []);
        assert!(!Leavings::of(scene.host())?.has_pins_of_dtm());
        objects.are_gone()?;
        scene.start_dtm(&arguments)?;
        scene.wait_named(&endpoint)?;
    }

    // Killed it leaves what the kernel does not take off by itself: filters.
    let objects = Objects::of(scene.dtm()?.id())?;
    scene.kill_dtm()?;
    let left = attached::to_interfaces(scene.host())?;
    assert_eq!(
        left.iter().any(|(_interface, how)| !how.starts_with("tcx ")),
        mode == "clsact"
    );
    assert!(!Leavings::of(scene.host())?.has_pins_of_dtm());
    detach_everything(scene.host())?;
    objects.are_gone()?;
    assert_eq!(attached::to_interfaces(scene.host())?, []);
    Ok(())
}

#[test]
fn what_is_not_pinned_goes_with_dtm_on_the_old_engine_with_tcx() -> Result<()> {
    what_is_not_pinned_goes_with_dtm(EngineKind::Old, "tcx")
}

#[test]
fn what_is_not_pinned_goes_with_dtm_on_the_current_engine_with_clsact() -> Result<()> {
    what_is_not_pinned_goes_with_dtm(EngineKind::Current, "clsact")
}
