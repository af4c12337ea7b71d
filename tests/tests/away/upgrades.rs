//! Another dtm takes over: one with other programs, one with other maps, and one that has room for fewer interfaces.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    attached,
    known::has_sent,
    pins,
    scene::{PATIENCE, SILENT},
};
use xtask::host::{EngineKind, eventually};

use crate::{
    load::{Load, Moment},
    stage::Stage,
};

/// How the maps of the dtm that is to be released are laid out, and those of `dtm-other-layout`.
const LAYOUT: &str = "v2";
const OTHER_LAYOUT: &str = "v3";

/// Everything, and what was counted in the beginning.
struct Upgrades {
    stage: Stage,
    load: Load,
    first: Moment,
    /// The talker's host end.
    host_end: String,
    /// A container that has stopped, and what it had sent.
    stopped: String,
    datagrams: u64,
}

impl Upgrades {
    fn new(kind: EngineKind, mode: &'static str) -> Result<Self> {
        let stage = Stage::new(kind, mode)?;
        let load = Load::start(&stage.scene)?;
        let talker = load.talker().host_end;
        let links = stage.scene.host().links()?;
        let host_end = links.into_iter().find(|link| link.ifindex == talker);
        let first = load.moment(&stage.scene)?;
        load.is_whole(&first)?;
        let stopped = stage.sender("stopped", 100)?;
        stage.scene.engine.docker(["stop", "--time", "0", "stopped"])?;
        Ok(Self {
            stage,
            load,
            first,
            host_end: host_end.context("a host end")?.name,
            stopped,
            datagrams: 100,
        })
    }

    /// Kills the dtm there is and has `program` take over: nothing is lost. The maps are of this layout then.
    fn to(&mut self, program: &str, further: &[&str], layout: &str) -> Result<()> {
        let arguments = [&self.stage.arguments()[..], further].concat();
        self.stage.scene.kill_dtm()?;
        self.stage.scene.start_other_dtm(program, &arguments)?;
        self.goes_on_with(layout)
            .with_context(|| format!("{program} with {further:?}"))
    }

    /// The same, and `program` is killed right after, as it may be before it has left the other's maps.
    fn interrupted(&mut self, program: &str, layout: &str) -> Result<()> {
        self.stage.scene.kill_dtm()?;
        for _start in 0..3 {
            self.stage
                .scene
                .start_other_dtm(program, &self.stage.arguments())?;
            self.stage.scene.kill_dtm()?;
        }
        self.stage
            .scene
            .start_other_dtm(program, &self.stage.arguments())?;
        self.goes_on_with(layout)
            .with_context(|| format!("{program}, interrupted"))
    }

    fn goes_on_with(&mut self, layout: &str) -> Result<()> {
        self.is_exact()?;
        let host = self.stage.scene.host();
        eventually(
            PATIENCE,
            &format!("the only pins are of {layout} and one dtm"),
            || {
                let names = pins::all(host)?;
                let classifiers = names.iter().filter(|name| name.contains("/programs/dtm_"));
                Ok((pins::layouts(host)? == [layout] && classifiers.count() == 2).then_some(()))
            },
        )
    }

    fn is_exact(&mut self) -> Result<()> {
        let scene = &self.stage.scene;
        let now = self.load.moment(scene)?;
        self.load.is_exact(&self.first, &now)?;
        self.load.is_whole(&now)?;
        // Its totals go while it is stopped, and its sum does not.
        scene.engine.docker(["start", "stopped"])?;
        scene.wait_named(&scene.endpoint("stopped", SILENT)?)?;
        self.stage.send("stopped", 10)?;
        self.datagrams += 10;
        has_sent(scene, &self.stopped, self.datagrams)?;
        scene.engine.docker(["stop", "--time", "0", "stopped"]).map(drop)
    }

    fn tags(&self) -> Result<BTreeSet<String>> {
        attached::tags(self.stage.scene.host(), &self.host_end)
    }
}

fn an_upgrade_loses_nothing(kind: EngineKind, mode: &'static str) -> Result<()> {
    let mut all = Upgrades::new(kind, mode)?;
    let tags = all.tags()?;
    let links = attached::holders(all.stage.scene.host())?;
    all.to("dtm-other-program", &[], LAYOUT)?;
    let other_tags = all.tags()?;
    ensure!(
        tags.is_disjoint(&other_tags),
        "the programs are still {other_tags:?}"
    );
    if mode == "tcx" {
        let now = attached::holders(all.stage.scene.host())?;
        assert_eq!(
            now.get(&all.host_end),
            links.get(&all.host_end),
            "the links are the same"
        );
    }
    all.to("dtm", &[], LAYOUT)?;
    assert_eq!(all.tags()?, tags, "back again");
    all.to("dtm-other-layout", &[], OTHER_LAYOUT)?;
    all.to("dtm", &[], LAYOUT)?;
    all.interrupted("dtm-other-layout", OTHER_LAYOUT)?;
    all.interrupted("dtm", LAYOUT)?;
    all.to("dtm", &["--max-interfaces", "256"], LAYOUT)?;
    all.to("dtm", &[], LAYOUT)?;
    all.stage.finish().map(drop)
}

#[test]
fn an_upgrade_loses_nothing_on_the_old_engine_with_clsact() -> Result<()> {
    an_upgrade_loses_nothing(EngineKind::Old, "clsact")
}

#[test]
fn an_upgrade_loses_nothing_on_the_current_engine_with_tcx() -> Result<()> {
    an_upgrade_loses_nothing(EngineKind::Current, "tcx")
}
