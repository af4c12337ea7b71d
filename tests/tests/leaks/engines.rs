//! Twenty restarts of the engine under a container that lives on, or comes back.

use anyhow::Result;
use dtm_tests::scene::{FRONT, PATIENCE};
use xtask::host::{EngineKind, eventually};

use crate::{
    holdings::Holdings,
    watched::{self, RESIDENT},
};

const RESTARTS: usize = 20;

fn nothing_is_left_of_twenty_restarts(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let mut scene = watched::scene(kind, attach_mode)?;
    let before = Holdings::at_rest(&scene)?;
    for restart in 0..RESTARTS {
        // What it does with its containers at its end is what it was last started with.
        scene.engine.set_live_restore(restart % 4 < 2);
        if restart % 2 == 0 {
            scene.engine.stop()?;
        } else {
            scene.engine.kill()?;
        }
        scene.engine.start_again()?;
        eventually(PATIENCE, "the resident runs", || {
            let running = scene
                .engine
                .docker(["inspect", "--format", "{{.State.Running}}", RESIDENT])?;
            Ok((running == "true").then_some(()))
        })?;
        let resident = scene.endpoint(RESIDENT, FRONT)?;
        scene.wait_named(&resident)?;
        if restart % 4 == 3 {
            before.are_all_again(&scene)?;
        }
    }
    watched::stop_dtm(scene)
}

#[test]
fn nothing_is_left_of_twenty_restarts_of_the_old_engine_with_clsact() -> Result<()> {
    nothing_is_left_of_twenty_restarts(EngineKind::Old, "clsact")
}

#[test]
fn nothing_is_left_of_twenty_restarts_of_the_current_engine_with_tcx() -> Result<()> {
    nothing_is_left_of_twenty_restarts(EngineKind::Current, "tcx")
}
