//! `dtm detach`: everything of dtm's goes, nothing of anybody else's.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    foreign::{Foreign, ForeignLink, NEXT, Position, Side},
    known::{PAYLOAD, send},
    objects::Objects,
    scene::{Endpoint, SILENT, Scene},
};
use xtask::host::{EngineKind, EngineOptions};

use crate::leavings::{Leavings, detach, detach_everything};

const CONTAINER: &str = "box";

/// Somebody else's programs on both sides of a container's host end, by a filter and by TCX.
struct Neighbour {
    filters: [Foreign; 2],
    links: [Foreign; 2],
    _held: [ForeignLink; 2],
}

impl Neighbour {
    fn move_in(scene: &Scene, at: &Endpoint) -> Result<Self> {
        let host = scene.host();
        let links = host.links()?;
        let host_end = links.iter().find(|link| link.ifindex == at.host_end);
        let host_end = &host_end.context("a host end")?.name;
        host.run("tc", ["qdisc", "add", "dev", host_end, "clsact"])?;
        let filters = [Foreign::classifier(NEXT)?, Foreign::classifier(NEXT)?];
        for (filter, side) in filters.iter().zip(Side::BOTH) {
            let side = side.as_str();
            let pin = filter.pin(host, &format!("foreign-{side}"))?;
            let words = format!("filter add dev {host_end} {side} prio 5 handle 0x5 protocol all bpf da");
            let words = words.split(' ').chain(["object-pinned", &pin]);
            host.run("tc", words)?;
        }
        let links = [Foreign::classifier(NEXT)?, Foreign::classifier(NEXT)?];
        let network = host.network()?;
        let attach = |link: &Foreign, side| link.attach_tcx(&network, at.host_end, side, Position::Last);
        Ok(Self {
            _held: [
                attach(&links[0], Side::Ingress)?,
                attach(&links[1], Side::Egress)?,
            ],
            filters,
            links,
        })
    }

    /// How often its programs have run on what the container has sent.
    fn runs(&self) -> Result<[u64; 2]> {
        Ok([self.filters[0].runs()?, self.links[0].runs()?])
    }
}

fn everything_of_dtms_goes_and_nothing_else(kind: EngineKind, mode: &str) -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    scene.make_silent_network()?;
    scene.run(CONTAINER, SILENT, &["traffic", "udp-receive", "5002"])?;
    scene.run("open", "host", &["sleep", "3600"])?;
    let container = scene.endpoint(CONTAINER, SILENT)?;
    let neighbour = Neighbour::move_in(&scene, &container)?;
    let before = Leavings::of(scene.host())?;
    for program in ["dtm", "dtm-other-layout"] {
        scene.start_other_dtm(program, &["--attach-mode", mode])?;
        scene.wait_named(&container)?;
        let objects = Objects::of(scene.dtm()?.id())?;
        let now = Leavings::of(scene.host())?;
        assert!(now.has_pins_of_dtm() && now != before, "{now:?}");
        if program == "dtm" {
            is_refused_while_dtm_runs(&scene)?;
        }
        scene.kill_dtm()?;
        detach_everything(scene.host())?;
        assert_eq!(Leavings::of(scene.host())?, before, "after {program}");
        objects.are_gone()?;
    }
    // Where there is nothing, nothing is wrong.
    detach_everything(scene.host())?;
    assert_eq!(Leavings::of(scene.host())?, before);
    let runs = neighbour.runs()?;
    let gateway = "{{(index .IPAM.Config 0).Gateway}}";
    let gateway = ["network", "inspect", "--format", gateway, SILENT];
    let gateway = format!("{}:9", scene.engine.docker(gateway)?);
    send(&scene, CONTAINER, &gateway, 1)?;
    let now = neighbour.runs()?;
    ensure!(
        now[0] > runs[0] && now[1] > runs[1],
        "{now:?} after {runs:?} and a datagram of {PAYLOAD} bytes: the neighbour's programs do not run any more"
    );
    Ok(())
}

/// It names who is in the way, and touches nothing.
fn is_refused_while_dtm_runs(scene: &Scene) -> Result<()> {
    let before = Leavings::of(scene.host())?;
    let refused = detach(scene.host(), &[])?;
    let said = String::from_utf8(refused.stderr).context("what it says is no text")?;
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let process = format!("another dtm (process {}", scene.dtm()?.id());
    assert!(said.contains(&process), "{said}");
    assert_eq!(Leavings::of(scene.host())?, before);
    assert_eq!(scene.samples()?.get("dtm_reattached_total", &[])?, 0);
    Ok(())
}

#[test]
fn everything_of_dtms_goes_and_nothing_else_on_the_old_engine_with_clsact() -> Result<()> {
    everything_of_dtms_goes_and_nothing_else(EngineKind::Old, "clsact")
}

#[test]
fn everything_of_dtms_goes_and_nothing_else_on_the_current_engine_with_tcx() -> Result<()> {
    everything_of_dtms_goes_and_nothing_else(EngineKind::Current, "tcx")
}
