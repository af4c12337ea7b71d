//! A dtm that is killed and started again, ten times, with containers alive.

use anyhow::Result;
use dtm_tests::{
    objects::Objects,
    scene::{BACK, FRONT, growth},
};
use xtask::host::EngineKind;

use crate::{
    churn::Churn,
    holdings::Holdings,
    watched::{self, NEIGHBOUR, RESIDENT},
};

const CRASHES: usize = 10;

fn nothing_is_doubled_by_ten_crashes(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let mut scene = watched::scene(kind, attach_mode)?;
    scene.run(NEIGHBOUR, BACK, &["sleep", "3600"])?;
    scene.wait_named(&scene.endpoint(NEIGHBOUR, BACK)?)?;
    let resident = scene.endpoint(RESIDENT, FRONT)?;
    // One that has taken over need not load what is attached.
    scene.kill_dtm()?;
    watched::start_dtm(&mut scene, attach_mode)?;
    scene.wait_named(&resident)?;
    let before = Holdings::at_rest(&scene)?;
    for _crash in 0..CRASHES {
        let killed = Objects::of(scene.dtm()?.id())?;
        scene.kill_dtm()?;
        watched::start_dtm(&mut scene, attach_mode)?;
        scene.wait_named(&resident)?;
        before.are_all_again(&scene)?;
        // What it had pinned is the next one's.
        killed.without(&Objects::of(scene.dtm()?.id())?).are_gone()?;
    }
    // Each packet is counted once.
    let (kernel_before, counted_before) = scene.both(&resident)?;
    Churn::new(&scene)?.run(10)?;
    let (kernel, counted) = scene.both(&resident)?;
    assert_eq!(growth(counted_before, counted), growth(kernel_before, kernel));
    watched::stop_dtm(scene)
}

#[test]
fn nothing_is_doubled_by_ten_crashes_with_clsact() -> Result<()> {
    nothing_is_doubled_by_ten_crashes(EngineKind::Old, "clsact")
}

#[test]
fn nothing_is_doubled_by_ten_crashes_with_tcx() -> Result<()> {
    nothing_is_doubled_by_ten_crashes(EngineKind::Current, "tcx")
}
