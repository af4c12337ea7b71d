//! An engine with a container that lives through everything, and a dtm that watches.

use anyhow::Result;
use dtm_tests::{
    attached,
    daemon::binary,
    objects::Objects,
    scene::{FRONT, IMAGE, Scene},
};
use xtask::host::{EngineKind, EngineOptions, run};

/// The container that lives on; an engine that ends its containers starts it again.
pub(crate) const RESIDENT: &str = "resident";

/// Another that lives on where a test wants several.
pub(crate) const NEIGHBOUR: &str = "neighbour";

/// Where the resident receives.
pub(crate) const PORT: &str = "5002";

/// How long totals stay after the end.
pub(crate) const LINGER: &str = "2s";

/// glibc keeps up to seven free pieces of each size for each thread. They fill up over hours, to some 100 kB each, and would
/// hide what grows for another reason. It keeps small pieces (`mxfast`) where they look as if they were in use.
const WITHOUT_CACHES: &str = "GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0";

/// Makes the scene; dtm attaches by `attach_mode`.
pub(crate) fn scene(kind: EngineKind, attach_mode: &str) -> Result<Scene> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    start_dtm(&mut scene, attach_mode)?;
    let run = [
        "run",
        "--detach",
        // For a receive buffer that loses nothing.
        "--cap-add",
        "NET_ADMIN",
        "--restart",
        "always",
        // The first process of a container hears nothing but this.
        "--stop-signal",
        "KILL",
        "--name",
        RESIDENT,
        "--network",
        FRONT,
        IMAGE,
    ];
    scene
        .engine
        .docker(run.iter().chain(&["traffic", "udp-receive", PORT]))?;
    scene.wait_named(&scene.endpoint(RESIDENT, FRONT)?)?;
    Ok(scene)
}

/// Starts dtm as all these tests do.
pub(crate) fn start_dtm(scene: &mut Scene, attach_mode: &str) -> Result<()> {
    scene.start_dtm_with(
        WITHOUT_CACHES,
        &["--attach-mode", attach_mode, "--linger", LINGER],
    )
}

/// Stops dtm and takes off what it leaves; nothing of it is on the machine then.
pub(crate) fn stop_dtm(mut scene: Scene) -> Result<()> {
    let objects = Objects::of(scene.dtm()?.id())?;
    scene.stop_dtm()?;
    run(scene.host().command(binary("dtm")?).arg("detach"))?;
    assert_eq!(attached::to_interfaces(scene.host())?, []);
    objects.are_gone()
}
