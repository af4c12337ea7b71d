//! What becomes of containers while no dtm runs.

use anyhow::Result;
use dtm_tests::{
    known::{SENT_BYTES, has_sent, sent, wait_gone},
    scene::PATIENCE,
};
use xtask::host::{EngineKind, eventually};

use crate::stage::{Stage, found, grows_exactly};

fn what_happens_meanwhile_is_made_up_for(kind: EngineKind, mode: &'static str) -> Result<()> {
    let mut stage = Stage::new(kind, mode)?;
    let docker = |stage: &Stage, arguments: &[&str]| stage.scene.engine.docker(arguments).map(drop);
    let mut ids = Vec::new();
    for name in ["stops", "again", "old-name"] {
        ids.push(stage.sender(name, 100)?);
    }
    stage.scene.kill_dtm()?;

    for name in ["stops", "again", "old-name"] {
        stage.send(name, 50)?;
    }
    let first_life = stage.scene.kernel(&stage.endpoint("again")?)?;
    docker(&stage, &["stop", "--time", "0", "stops", "again"])?;
    docker(&stage, &["start", "again"])?;
    docker(&stage, &["rename", "old-name", "new-name"])?;
    stage.run("born")?;
    stage.send("born", 50)?;

    stage.start()?;
    let in_state = |state| found(&stage.scene, state);
    assert!(
        in_state("gone")? >= 2,
        "of who stopped, and of the other's first life"
    );
    assert_eq!(in_state("detached")?, 0);
    assert!(
        in_state("attached")? >= 2,
        "the receiver's, and the renamed one's"
    );
    has_sent(&stage.scene, &ids[0], 150)?;
    is_another_life_of_the_same(&stage, &ids[1], first_life.1)?;
    eventually(PATIENCE, "it has its new name", || {
        let of = [("container_id", ids[2].as_str()), ("name", "new-name")];
        Ok(stage.scene.samples()?.find(SENT_BYTES, &of)?.map(drop))
    })?;
    let by_old_name = stage.scene.samples()?.sum(SENT_BYTES, &[("name", "old-name")]);
    assert_eq!(by_old_name, 0);
    has_sent(&stage.scene, &ids[2], 150)?;

    let born = stage.endpoint("born")?;
    stage.scene.wait_named(&born)?;
    let before = stage.scene.both(&born)?;
    stage.send("born", 50)?;
    grows_exactly(&stage.scene, &born, before)?;

    // After their linger the totals go; the container's sum does not.
    wait_gone(&stage.scene, &ids[0])?;
    docker(&stage, &["start", "stops"])?;
    stage.send("stops", 50)?;
    has_sent(&stage.scene, &ids[0], 200)?;
    stage.finish().map(drop)
}

/// The interface of its second life was born unseen: what that moved before dtm came is nobody's to tell, all else is there.
fn is_another_life_of_the_same(stage: &Stage, id: &str, sent_before: u64) -> Result<()> {
    let endpoint = stage.endpoint("again")?;
    stage.scene.wait_named(&endpoint)?;
    let before = stage.scene.both(&endpoint)?;
    let (kernel, counted) = (before.0.1, before.1.1);
    assert!(
        (sent_before..=sent_before + kernel).contains(&counted),
        "{counted} after {sent_before}, of which {kernel} at most are new"
    );
    stage.send("again", 50)?;
    grows_exactly(&stage.scene, &endpoint, before)?;
    let all = sent(&stage.scene, id)?.map(|(_packets, bytes)| bytes);
    assert_eq!(
        all,
        Some(stage.scene.counted(&endpoint)?.1),
        "one series over both lives"
    );
    Ok(())
}

#[test]
fn what_happens_meanwhile_is_made_up_for_on_the_old_engine_with_tcx() -> Result<()> {
    what_happens_meanwhile_is_made_up_for(EngineKind::Old, "tcx")
}

#[test]
fn what_happens_meanwhile_is_made_up_for_on_the_current_engine_with_clsact() -> Result<()> {
    what_happens_meanwhile_is_made_up_for(EngineKind::Current, "clsact")
}
