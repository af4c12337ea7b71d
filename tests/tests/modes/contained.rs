//! dtm as a container itself: with the README's words the same numbers as on the host, and without one of them the same
//! still, or a word on which it is.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    contained::{Change, make_image, run_command},
    far::{Far, UDP, Version, wait_listening},
    scene::{FRONT, PATIENCE, Scene},
    tally::Ways,
};
use xtask::host::{CgroupWorld, EngineKind, EngineOptions, eventually};

use crate::{
    facts::{Fact, INFO, SENT_BYTES, UNCOVERED, agree, hold, received, sent},
    host::stage::{datagrams, labels},
    places::{Place, all_exact, during, process},
};

/// A container on a bridge and one on the host's network that are there before dtm, and where the latter receives.
const EARLY: &str = "early";
const OPEN: (&str, u16) = ("open", 6001);
/// The same, born under its eyes.
const LATE: &str = "late";
const LATE_OPEN: (&str, u16) = ("late-open", 6002);

/// Everything but dtm.
struct Stage {
    // In the order in which they have to end.
    far: Far,
    scene: Scene,
}

impl Stage {
    fn new(world: CgroupWorld, options: EngineOptions) -> Result<Self> {
        let scene = Scene::in_world(world, options)?;
        make_image(&scene.engine)?;
        let far = Far::new(scene.host(), 1)?;
        Ok(Self { far, scene })
    }

    fn start(&self, on_bridge: &str, (on_host, port): (&str, u16), options: &[&str]) -> Result<()> {
        let scene = &self.scene;
        scene.run(on_bridge, FRONT, &["sleep", "3600"])?;
        let options = [&["--network", "host"], options].concat();
        scene.run_with(on_host, &options, &["traffic", "udp-receive", &port.to_string()])?;
        wait_listening(&scene.host().network()?, port)
    }

    fn wait_shown(&self, labels: &[(&str, &str)]) -> Result<()> {
        eventually(PATIENCE, &format!("the series of {labels:?}"), || {
            Ok(self.scene.samples()?.find(SENT_BYTES, labels)?.map(drop))
        })
    }

    fn send(&self, container: &str, datagrams: u64, size: u64) -> Result<()> {
        let to = self.far.port(Version::V4, UDP);
        let command = [
            "traffic",
            "udp-send",
            &to,
            &datagrams.to_string(),
            &size.to_string(),
        ];
        self.scene.exec(container, &command).map(drop)
    }

    /// Containers on a bridge: as the kernel counts.
    fn bridges_are_exact(&self, names: &[&str]) -> Result<()> {
        let scene = &self.scene;
        let places = names.iter().map(|name| Place::on_bridge(scene, name, FRONT));
        let places: Vec<_> = places.collect::<Result<_>>()?;
        let places: Vec<_> = places.iter().collect();
        for place in &places {
            place.wait_shown(scene)?;
        }
        let readings = during(scene, &places, || {
            names.iter().try_for_each(|name| {
                self.send(name, 150, 600)?;
                let far = self.far.address(Version::V4);
                scene
                    .exec(name, &["ping", "-c", "5", "-i", "0.1", &far])
                    .map(drop)
            })
        })?;
        all_exact(&places, &readings)?;
        let has_passed = readings
            .iter()
            .all(|reading| reading.kernel.transmit.packets >= 155 && reading.kernel.receive.packets >= 5);
        ensure!(has_passed, "not everything was sent: {readings:?}");
        Ok(())
    }

    /// One on the host's network: what it was sent, and what it sends.
    fn host_is_exact(&self, (name, port): (&str, u16)) -> Result<()> {
        self.wait_shown(&labels(name))?;
        let shown = || -> Result<_> { Ways::shown(&self.scene.samples()?, &labels(name)) };
        let before = shown()?;
        self.send(name, 120, 500)?;
        let to = Version::V4.port(&self.far.near(Version::V4), port);
        self.far.send(&to, 80, 700)?;
        let truth = sent(datagrams(Version::V4, 120, 500)) + received(datagrams(Version::V4, 80, 700));
        let grown = eventually(PATIENCE, "it is counted", || {
            let grown = shown()? - before;
            let all = grown.receive.packets >= 80 && grown.transmit.packets >= 120;
            Ok(all.then_some(grown))
        })?;
        agree(name, grown, truth)
    }

    fn everything_is_exact(&self) -> Result<()> {
        self.bridges_are_exact(&[EARLY, LATE])?;
        self.host_is_exact(OPEN)?;
        self.host_is_exact(LATE_OPEN)?;
        // dtm is one of those on the host's network.
        let unseen: Vec<_> = self.samples_of_unseen()?;
        agree("unseen", unseen, Vec::new())
    }

    /// Who is said to be unseen, and why.
    fn samples_of_unseen(&self) -> Result<Vec<[String; 2]>> {
        let samples = self.scene.samples()?;
        let of = |label: &str, sample: &dtm_tests::daemon::Sample| sample.labels[label].clone();
        let unseen = samples.all(UNCOVERED, &[]);
        Ok(unseen
            .map(|sample| [of("name", sample), of("reason", sample)])
            .collect())
    }

    /// Waits until it is said why this container is unseen.
    fn wait_unseen(&self, name: &str, reason: &str) -> Result<()> {
        let said = [name.to_owned(), reason.to_owned()];
        eventually(PATIENCE, &format!("{said:?} is said"), || {
            Ok(self.samples_of_unseen()?.contains(&said).then_some(()))
        })?;
        let series = self.scene.samples()?.all(SENT_BYTES, &[("name", name)]).count();
        agree("its series", series, 0)?;
        let known = self.scene.samples()?.all(INFO, &[("name", name)]).count();
        agree("what is known of it", known, 1)
    }

    /// Waits until dtm's log has this.
    fn wait_logged(&self, words: &str) -> Result<()> {
        eventually(PATIENCE, &format!("{words:?} in the log"), || {
            Ok(self.scene.dtm()?.log().contains(words).then_some(()))
        })
    }
}

/// dtm, in the README's words with changes: each of the first is replaced by what follows it.
fn watch(stage: &mut Stage, changes: &[Change]) -> Result<()> {
    let mut words = run_command(&stage.scene.engine, changes)?;
    // What one has found out the next one would know.
    words.splice(1..1, ["--env", "DTM_NO_PIN=true"].map(str::to_owned));
    stage.scene.start_dtm_contained(&words)
}

/// Runs dtm with each set of changes, one after the other, and holds it to `facts`.
fn contained(kind: EngineKind, world: CgroupWorld) -> Result<()> {
    let mut stage = Stage::new(world, EngineOptions::new(kind))?;
    stage.start(EARLY, OPEN, &[])?;
    for (what, changes, facts) in CASES {
        println!("{what}:");
        watch(&mut stage, changes).with_context(|| (*what).to_owned())?;
        stage.start(LATE, LATE_OPEN, &[])?;
        let held = hold(&stage, facts);
        let log = stage.scene.dtm()?.log();
        held.with_context(|| format!("{what}; it said:\n{log}"))?;
        stage.scene.stop_dtm()?;
        stage.scene.engine.docker(["rm", "--force", LATE, LATE_OPEN.0])?;
    }
    Ok(())
}

/// What is changed, and what holds then.
type Case = (&'static str, &'static [Change], &'static [Fact<Stage>]);

const OWN_GROUPS: Change = ("--cgroupns host", "--cgroupns private");
const OWN_PROCESSES: Change = ("--pid host", "");
const NO_SANDBOXES: Change = ("-v /var/run/docker/netns:/var/run/docker/netns:rslave", "");

const CASES: &[Case] = &[
    (
        "as the README says",
        &[],
        &[("everything is exact", Stage::everything_is_exact)],
    ),
    (
        "without --cgroupns host",
        &[OWN_GROUPS],
        &[("everything is exact", Stage::everything_is_exact)],
    ),
    (
        "without the engine's namespaces",
        &[NO_SANDBOXES],
        &[("everything is exact", Stage::everything_is_exact)],
    ),
    (
        "without --pid host",
        &[OWN_PROCESSES],
        &[
            ("the host's network is exact", |stage| stage.host_is_exact(OPEN)),
            ("and of the late one", |stage| stage.host_is_exact(LATE_OPEN)),
            ("bridges are said to be unseen", |stage| {
                stage.wait_unseen(EARLY, "interface_not_found")?;
                stage.wait_unseen(LATE, "interface_not_found")?;
                stage.wait_logged("start it with --pid host")
            }),
        ],
    ),
    (
        "without --cgroupns host and --pid host",
        &[OWN_GROUPS, OWN_PROCESSES],
        &[("everything is said to be unseen", |stage| {
            stage.wait_unseen(OPEN.0, "cgroup_not_found")?;
            stage.wait_unseen(LATE_OPEN.0, "cgroup_not_found")?;
            stage.wait_unseen(LATE, "interface_not_found")?;
            stage.wait_logged("start it with --cgroupns host")?;
            stage.wait_logged("start it with --pid host")
        })],
    ),
];

/// An engine that gives its containers users of their own. What is to be on the host's network, dtm too, must not have any.
fn remapped(kind: EngineKind) -> Result<()> {
    let options = EngineOptions {
        remaps_users: true,
        ..EngineOptions::new(kind)
    };
    let mut stage = Stage::new(CgroupWorld::V2, options)?;
    let refused = stage.scene.run(OPEN.0, "host", &["true"]);
    let refusal = format!("{:#}", refused.err().context("the host's network is refused")?);
    ensure!(refusal.contains("user namespace"), "{refusal}");
    let remapped = |name: &str| -> Result<bool> {
        let process = process(&stage.scene, name)?;
        let users = std::fs::read_to_string(format!("/proc/{process}/uid_map"))?;
        Ok(users.split_whitespace().nth(1) != Some("0"))
    };

    stage.start(EARLY, OPEN, HOSTS_USERS)?;
    ensure!(remapped(EARLY)?, "{EARLY} has the host's users");
    ensure!(!remapped(OPEN.0)?, "{} has not the host's users", OPEN.0);
    stage.scene.start_dtm(&[])?;
    stage.start(LATE, LATE_OPEN, HOSTS_USERS)?;
    stage.everything_is_exact().context("on the host")?;
    stage.scene.stop_dtm()?;
    watch(&mut stage, &[("--pid host", "--pid host --userns host")])?;
    stage.everything_is_exact().context("in a container")
}

/// What keeps the engine's users from a container.
const HOSTS_USERS: &[&str] = &["--userns", "host"];

#[test]
fn a_contained_dtm_counts_the_same_on_the_old_engine() -> Result<()> {
    contained(EngineKind::Old, CgroupWorld::Hybrid)
}

#[test]
fn a_contained_dtm_counts_the_same_on_the_current_engine() -> Result<()> {
    contained(EngineKind::Current, CgroupWorld::V2)
}

#[test]
fn remapped_users_change_nothing_on_the_old_engine() -> Result<()> {
    remapped(EngineKind::Old)
}

#[test]
fn remapped_users_change_nothing_on_the_current_engine() -> Result<()> {
    remapped(EngineKind::Current)
}
