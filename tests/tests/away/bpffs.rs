//! Hosts whose BPF file system is not as it should be.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    attached,
    known::{port_of, send},
    pins::BPFFS,
    scene::{Endpoint, SILENT, Scene},
};
use rustix::process::Signal;
use xtask::host::{EngineKind, EngineOptions};

use crate::{
    leavings::detach_everything,
    stage::{Both, grows_exactly},
};

const SENDER: &str = "sender";

/// What dtm says where nothing outlives it.
const UNPINNED: &str = "not pinned";

/// An engine with a container that sends.
struct Stage {
    scene: Scene,
    sender: Endpoint,
    to: String,
    /// What was attached before dtm came.
    holders: BTreeMap<String, Vec<String>>,
}

impl Stage {
    fn new() -> Result<Self> {
        let scene = Scene::new(EngineOptions::new(EngineKind::newest()?))?;
        scene.make_silent_network()?;
        scene.run("receiver", SILENT, &["traffic", "udp-receive", "5002"])?;
        scene.run(SENDER, SILENT, &["sleep", "3600"])?;
        Ok(Self {
            sender: scene.endpoint(SENDER, SILENT)?,
            to: port_of(&scene, "receiver", SILENT)?,
            holders: attached::holders(scene.host())?,
            scene,
        })
    }

    fn start(&mut self, arguments: &[&str]) -> Result<Both> {
        self.scene.start_dtm(arguments)?;
        self.scene.wait_named(&self.sender)?;
        self.scene.both(&self.sender)
    }

    fn send(&self) -> Result<()> {
        send(&self.scene, SENDER, &self.to, 100)
    }

    fn has_pins(&self) -> Result<bool> {
        let of = [("feature", "pins")];
        let has = self.scene.samples()?.get("dtm_feature_available", &of)?;
        Ok(has == 1)
    }

    /// How often dtm has said that nothing outlives it. All of a host's dtms have one log.
    fn said(&self) -> Result<usize> {
        Ok(self.scene.dtm()?.log().matches(UNPINNED).count())
    }

    /// dtm counts, says once more that it leaves nothing, and does so. Returns how often that has been said.
    fn runs_unpinned(&mut self, said_before: usize, arguments: &[&str]) -> Result<usize> {
        let before = self.start(arguments)?;
        let said = self.said()?;
        ensure!(!self.has_pins()?, "it says that it has pins");
        ensure!(said > said_before, "it does not say that it has none");
        self.send()?;
        grows_exactly(&self.scene, &self.sender, before)?;
        self.scene.end_dtm(Signal::TERM)?;
        assert_eq!(attached::holders(self.scene.host())?, self.holders);
        Ok(said)
    }

    /// dtm mounts one at `path`, and what it has left there is taken over.
    fn is_mounted_by_dtm(&mut self, path: &str, arguments: &[&str]) -> Result<()> {
        let before = self.start(arguments)?;
        ensure!(self.has_pins()?, "it says that it has no pins");
        let mounted = self
            .scene
            .host()
            .run("stat", ["--file-system", "--format=%T", path])?;
        ensure!(mounted.trim() == "bpf_fs", "{path} is a {mounted}");
        let ours = self.scene.host().outside(&format!("{path}/dtm"));
        ensure!(ours.is_dir(), "there is no {}", ours.display());
        self.scene.kill_dtm()?;
        self.send()?;
        self.scene.start_dtm(arguments)?;
        grows_exactly(&self.scene, &self.sender, before)?;
        self.scene.kill_dtm()
    }
}

#[test]
fn where_it_cannot_be_written_to_nothing_is_pinned() -> Result<()> {
    let mut stage = Stage::new()?;
    let mount = |stage: &Stage, options: &str| {
        let mount = ["-o", options, BPFFS];
        stage.scene.host().run("mount", mount).map(drop)
    };
    mount(&stage, "remount,bind,ro")?;
    let said = stage.runs_unpinned(0, &[]).context("read-only")?;
    mount(&stage, "remount,bind,rw")?;
    stage
        .runs_unpinned(said, &["--path.bpffs", "/run/there-is-none"])
        .context("no such directory")?;
    let before = stage.start(&[])?;
    ensure!(stage.has_pins()?, "it says that it has no pins");
    stage.send()?;
    grows_exactly(&stage.scene, &stage.sender, before)
}

#[test]
fn where_it_is_not_mounted_dtm_mounts_it() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.scene.host().run("umount", [BPFFS])?;
    stage.is_mounted_by_dtm(BPFFS, &[]).context("the usual place")?;
    detach_everything(stage.scene.host())?;
    assert_eq!(attached::holders(stage.scene.host())?, stage.holders);
    let own = "/run/own-bpffs";
    stage.scene.host().run("mkdir", [own])?;
    stage
        .is_mounted_by_dtm(own, &["--path.bpffs", own])
        .context("a place of one's own")
}
