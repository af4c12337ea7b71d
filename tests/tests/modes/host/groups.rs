//! Where a container's control group is, and what is in and above it.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::Version,
    foreign::Exclusive,
    scene::{FRONT, PATIENCE},
    tally::Ways,
};
use xtask::host::{Engine, Running, eventually};

use super::stage::{Listener, ONE, Stage, TWO, datagrams, labels};
use crate::{
    facts::{INFO, SENT_BYTES, UNCOVERED, agree, nothing, sent},
    places::{Place, all_exact, during, process},
};

/// A process in a group below the container's own, as containers with an init system of their own have them.
pub(super) fn nested(stage: &Stage) -> Result<()> {
    let group = stage.scene.engine.container_cgroup(ONE.name)?;
    let inner = group.join("inner/most");
    fs::create_dir_all(&inner).with_context(|| format!("make {}", inner.display()))?;
    let first = process(&stage.scene, ONE.name)?;
    let far = stage.far_udp(Version::V4);
    let grown = stage.during([ONE.name, TWO.name], || {
        let wait = "until grep -q inner/most /proc/self/cgroup; do usleep 20000; done";
        let script = format!("{wait}; exec traffic udp-send {far} 120 450");
        let mut exec = stage
            .scene
            .engine
            .docker_command(["exec", ONE.name, "sh", "-c", &script]);
        let mut exec = Running::spawn(exec.stdout(Stdio::null()))?;
        let status = eventually(PATIENCE, "it has moved and sent", || {
            move_processes(&group, &inner, first)?;
            exec.try_wait()
        })?;
        ensure!(status.success(), "the sender has ended with {status}");
        Ok(())
    })?;
    let truth = [sent(datagrams(Version::V4, 120, 450)), Ways::default()];
    agree("both containers", grown, truth)
}

/// Moves everything but the container's own receivers: what was started beside them.
fn move_processes(from: &Path, to: &Path, first: u32) -> Result<()> {
    let processes = fs::read_to_string(from.join("cgroup.procs"))?;
    for process in processes.lines().filter(|process| *process != first.to_string()) {
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        // One that has ended by now cannot be moved, and need not be.
        if name.trim() != "traffic" {
            drop(fs::write(to.join("cgroup.procs"), process));
        }
    }
    Ok(())
}

/// `docker run --cgroup-parent`, of a container on the host's network and of one on a bridge.
pub(super) fn under_another_parent(stage: &Stage) -> Result<()> {
    let parent = format!("/{}/machine.slice/machine-own.slice", stage.scene.host().name());
    let names = ["sliced", "sliced-bridged"];
    is_counted_in(stage, names, &["--cgroup-parent", &parent], |id| {
        format!("{}/{id}", &parent[1..])
    })
}

/// `system.slice/docker-<id>.scope`: what an engine with systemd's driver has.
pub(super) fn in_a_scope(stage: &Stage) -> Result<()> {
    let host = stage.scene.host().name();
    let names = ["scoped", "scoped-bridged"];
    is_counted_in(stage, names, &Engine::IN_SCOPE, |id| {
        format!("{host}/system.slice/docker-{id}.scope")
    })
}

/// Starts two containers with these arguments of `docker run`, the first on the host's network and the other on a bridge.
/// They are to have the group `group(id)`.
fn is_counted_in(
    stage: &Stage,
    [on_host, on_bridge]: [&'static str; 2],
    options: &[&str],
    group: impl Fn(&str) -> String,
) -> Result<()> {
    let scene = &stage.scene;
    let with = |network: &'static str| [options, &["--network", network]].concat();
    let listener = Listener {
        name: on_host,
        udp: 6003,
        tcp: 6103,
    };
    stage.start(listener, &with("host"))?;
    scene.run_with(on_bridge, &with(FRONT), &["sleep", "3600"])?;
    for name in [on_host, on_bridge] {
        let id = scene.engine.docker(["inspect", "--format", "{{.Id}}", name])?;
        let place = scene.engine.container_cgroup(name)?;
        ensure!(
            place.ends_with(group(&id)),
            "{name} is in {}, where nobody wanted it",
            place.display()
        );
    }
    let far = stage.far_udp(Version::V4);
    let grown = stage.during([on_host, ONE.name], || stage.send(on_host, &far, 110, 333))?;
    let truth = [sent(datagrams(Version::V4, 110, 333)), Ways::default()];
    agree("on the host's network", grown, truth)?;
    let bridged = Place::on_bridge(scene, on_bridge, FRONT)?;
    bridged.wait_shown(scene)?;
    let readings = during(scene, &[&bridged], || stage.send(on_bridge, &far, 110, 333))?;
    all_exact(&[&bridged], &readings)?;
    ensure!(
        readings[0].kernel.transmit.packets >= 110,
        "everything was sent: {readings:?}"
    );
    scene
        .engine
        .docker(["rm", "--force", on_host, on_bridge])
        .map(drop)
}

/// Such a program above a container's group suffers no other one below: that the container cannot be seen is said, and
/// nobody sees zeroes. The next one that starts without it is counted.
pub(super) fn under_an_exclusive_program(stage: &Stage) -> Result<()> {
    const REASON: (&str, &str) = ("reason", "cgroup_program_exclusive");
    const LATER: Listener = Listener {
        name: "later",
        udp: 6005,
        tcp: 6105,
    };
    let scene = &stage.scene;
    let parent = format!("/{}/accounted.slice", scene.host().name());
    let group = scene.host().cgroup().join("accounted.slice");
    fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
    let exclusive = Exclusive::attach(&group)?;
    let options = ["--network", "host", "--cgroup-parent", &parent];
    scene.run_with("hidden", &options, &["sleep", "3600"])?;
    let said = [("name", "hidden"), REASON];
    eventually(PATIENCE, "it is said to be unseen", || {
        Ok(scene
            .samples()?
            .find(UNCOVERED, &said)?
            .filter(|value| *value == 1))
    })?;
    let far = stage.far_udp(Version::V4);
    let grown = stage.during([ONE.name, TWO.name], || stage.send("hidden", &far, 100, 200))?;
    for grown in grown {
        nothing("of another container's", grown)?;
    }
    agree("the other program's packets", exclusive.runs()?, 100)?;
    let samples = scene.samples()?;
    let of = [("name", "hidden")];
    agree("its series", samples.all(SENT_BYTES, &of).count(), 0)?;
    agree("it is known", samples.all(INFO, &of).count(), 1)?;
    agree("why it is unseen", samples.all(UNCOVERED, &of).count(), 1)?;

    drop(exclusive);
    stage.start(LATER, &options)?;
    let [later] = stage.during([LATER.name], || stage.send(LATER.name, &far, 100, 200))?;
    agree("without it", later, sent(datagrams(Version::V4, 100, 200)))?;
    let samples = scene.samples()?;
    let unseen = samples.all(UNCOVERED, &labels(LATER.name)[..1]).count();
    agree("without it, unseen", unseen, 0)?;
    scene.engine.docker(["rm", "--force", "hidden", LATER.name])?;
    eventually(PATIENCE, "nobody is unseen any more", || {
        let unseen = scene.samples()?.all(UNCOVERED, &[]).count();
        Ok((unseen == 0).then_some(()))
    })
}
