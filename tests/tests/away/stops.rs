//! A stop in order leaves everything as it is.

use anyhow::Result;
use dtm_tests::{
    attached,
    known::{goes_on, has_sent},
};
use rustix::process::Signal;
use xtask::host::EngineKind;

use crate::stage::{Stage, found};

fn a_stop_leaves_it_counting(kind: EngineKind, mode: &'static str) -> Result<()> {
    let mut stage = Stage::new(kind, mode)?;
    let id = stage.sender("steady", 100)?;
    let endpoint = stage.endpoint("steady")?;
    let holders = attached::holders(stage.scene.host())?;
    let mut datagrams = 100;
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        match signal {
            Signal::KILL => stage.scene.kill_dtm()?,
            signal => stage.scene.end_dtm(signal)?,
        }
        assert_eq!(
            attached::holders(stage.scene.host())?,
            holders,
            "left by {signal:?}"
        );
        stage.send("steady", 50)?;
        datagrams += 50;
        stage.start()?;
        has_sent(&stage.scene, &id, datagrams)?;
        goes_on(&stage.scene, &id, &endpoint, (0, 0))?;
        assert_eq!(
            attached::holders(stage.scene.host())?,
            holders,
            "taken over as it was"
        );
        for state in ["detached", "gone"] {
            assert_eq!(found(&stage.scene, state)?, 0, "{state} after {signal:?}");
        }
        assert_eq!(stage.scene.samples()?.get("dtm_reattached_total", &[])?, 0);
    }
    stage.finish().map(drop)
}

#[test]
fn a_stop_leaves_it_counting_on_the_old_engine_with_tcx() -> Result<()> {
    a_stop_leaves_it_counting(EngineKind::Old, "tcx")
}

#[test]
fn a_stop_leaves_it_counting_on_the_current_engine_with_clsact() -> Result<()> {
    a_stop_leaves_it_counting(EngineKind::Current, "clsact")
}
