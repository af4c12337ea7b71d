//! Somebody takes dtm's programs off: they come back, first in line, and nothing else is taken for that.

use anyhow::{Context as _, Result};
use dtm_tests::{
    attached,
    daemon::{Dtm, binary},
    foreign::{Foreign, NEXT, PASS, Position, Side, detach_link, tcx_links},
    scene::PATIENCE,
};
use xtask::host::{CgroupWorld, EngineKind, Host, eventually};

use crate::scene::{Company, EXACT, LATER, MOVED, PACKETS, SOON};

/// How dtm's own filters are found.
const OURS: &str = "prio 1 handle 0x64746d protocol all bpf";

#[test]
fn filters_that_somebody_deletes_come_back() -> Result<()> {
    let mut company = Company::new(EngineKind::Old)?;
    company.watch("clsact")?;
    let furniture = company.furniture()?;
    let (_kernel, start) = company.scene.both(&company.endpoint)?;
    assert_eq!(company.exchange()?, EXACT);
    let qdisc = format!("qdisc delete dev {} clsact", company.host_end);
    let mut reattached = 0;
    let mut mended = || -> Result<()> {
        reattached += 1;
        company.wait_reattached(reattached, SOON)?;
        assert_eq!(company.furniture()?, furniture, "each filter is there once");
        assert_eq!(company.exchange()?, EXACT);
        Ok(())
    };
    for side in Side::BOTH {
        company.filter("delete", side, OURS)?;
        mended()?;
        // All of that side's.
        company.filter("delete", side, "")?;
        mended()?;
    }
    company.tc(&qdisc)?;
    mended()?;
    let (_kernel, end) = company.scene.both(&company.endpoint)?;
    let exchanges = 1 + reattached;
    assert_eq!(
        (end.0 - start.0, end.1 - start.1),
        (exchanges * MOVED.0, exchanges * MOVED.1),
        "what was counted before stays counted"
    );
    company.scene.stop_dtm()?;
    assert_eq!(attached::to_interfaces(company.scene.host())?, []);
    Ok(())
}

#[test]
fn links_that_somebody_detaches_by_force_come_back_first_in_line() -> Result<()> {
    let mut company = Company::new(EngineKind::Current)?;
    company.watch("tcx")?;
    let (_kernel, start) = company.scene.both(&company.endpoint)?;
    let network = company.scene.host().network()?;
    let host_end = company.endpoint.host_end;
    let neighbour = Foreign::classifier(PASS)?;
    let _neighbours = [
        neighbour.attach_tcx(&network, host_end, Side::Ingress, Position::Last)?,
        neighbour.attach_tcx(&network, host_end, Side::Egress, Position::Last)?,
    ];
    let links = || -> Result<[Vec<u32>; 2]> {
        Ok([
            tcx_links(&network, host_end, Side::Ingress)?,
            tcx_links(&network, host_end, Side::Egress)?,
        ])
    };
    for (side, reattached) in [(0, 1), (1, 2)] {
        let before = links()?;
        let [ours, neighbours] = before[side][..] else {
            panic!("two programs at each hook: {before:?}");
        };
        detach_link(ours)?;
        company.wait_reattached(reattached, LATER)?;
        let after = links()?;
        assert_ne!(after[side][0], ours);
        assert_eq!(after[side][1..], [neighbours]);
        assert_eq!(after[1 - side], before[1 - side], "what was there stays there");
        assert_eq!(company.exchange()?, EXACT);
    }
    let (_kernel, end) = company.scene.both(&company.endpoint)?;
    assert_eq!(
        (end.0 - start.0, end.1 - start.1),
        (2 * MOVED.0, 2 * MOVED.1),
        "what was counted before stays counted"
    );
    company.scene.stop_dtm()?;
    assert_eq!(attached::to_interfaces(company.scene.host())?, []);
    Ok(())
}

#[test]
fn a_qdisc_that_is_replaced_takes_nothing_away() -> Result<()> {
    for (kind, mode) in [(EngineKind::Current, "clsact"), (EngineKind::Old, "tcx")] {
        let mut company = Company::new(kind)?;
        company.watch(mode)?;
        let before = attached::to_interfaces(company.scene.host())?;
        for words in [
            "replace clsact",
            "replace root pfifo",
            "replace root noqueue",
            "delete root",
            "replace clsact",
        ] {
            let (action, rest) = words.split_once(' ').unwrap_or((words, ""));
            company.tc(&format!("qdisc {action} dev {} {rest}", company.host_end))?;
            assert_eq!(company.exchange()?, EXACT, "{mode}: {words}");
        }
        // The kernel lets nobody put another in its place.
        let ingress = format!("qdisc replace dev {} ingress", company.host_end);
        assert!(company.tc(&ingress).is_err(), "{mode}");
        assert_eq!(company.exchange()?, EXACT, "{mode}");
        assert_eq!(attached::to_interfaces(company.scene.host())?, before);
        assert_eq!(company.scene.samples()?.get("dtm_reattached_total", &[])?, 0);
    }
    Ok(())
}

#[test]
fn where_an_ingress_qdisc_took_its_place_it_goes_on_by_tcx() -> Result<()> {
    let mut company = Company::new(EngineKind::newest()?)?;
    company.watch("auto")?;
    assert_eq!(company.named("clsact")?, 1);
    let host_end = &company.host_end;
    let swap = format!("qdisc delete dev {host_end} clsact\nqdisc add dev {host_end} ingress\n");
    let batch = company.scene.host().directory().join("swap");
    std::fs::write(&batch, swap).context("write a batch for tc")?;
    company.tc(&format!("-batch {}", batch.display()))?;
    company.wait_reattached(1, SOON)?;
    assert_eq!((company.named("tcx")?, company.named("clsact")?), (1, 0));
    assert_eq!(company.exchange()?, EXACT);
    company.scene.stop_dtm()
}

/// A dtm that pins nothing leaves its filters when it is killed, and they count for nobody.
#[test]
fn what_an_earlier_dtm_left_is_taken_off() -> Result<()> {
    let mut company = Company::new(EngineKind::newest()?)?;
    for (mode, expected) in [("clsact", "clsact"), ("tcx", "tcx"), ("auto", "clsact")] {
        let mut killed = company
            .scene
            .host()
            .spawn(binary("dtm")?, ["--attach-mode", "clsact", "--no-pin"])?;
        eventually(PATIENCE, "dtm is attached", || {
            Ok((company.attached()?.len() == 2).then_some(()))
        })?;
        killed.kill()?;
        // Somebody else has come first since.
        let filter = "prio 1 handle 0x1 protocol all bpf";
        let next = Foreign::classifier(NEXT)?;
        let pin = next.pin(company.scene.host(), mode)?;
        company.filter("add", Side::Ingress, &format!("{filter} da object-pinned {pin}"))?;
        company.watch(mode)?;
        assert_eq!(company.named(expected)?, 1, "{mode}");
        let ours = company.attached()?;
        let by_tcx = ours.iter().filter(|how| how.starts_with("tcx "));
        assert_eq!(
            (ours.len(), by_tcx.count()),
            (2, if mode == "tcx" { 2 } else { 0 })
        );
        assert_eq!(company.exchange()?, EXACT, "{mode}");
        assert_eq!(next.runs()?, PACKETS.1, "{mode}");
        company.wait_preceded(expected, 0, SOON)?;
        company.scene.stop_dtm()?;
        assert_eq!(attached::to_interfaces(company.scene.host())?, [], "{mode}");
        company.filter("delete", Side::Ingress, filter)?;
    }
    Ok(())
}

/// Interfaces that end while their filters change: nobody took anything off.
#[test]
fn the_end_of_many_interfaces_is_not_taken_for_theft() -> Result<()> {
    for mode in ["clsact", "tcx"] {
        let host = Host::new(CgroupWorld::V2)?;
        host.run("sh", ["-euc", MAKE_MANY])?;
        let dtm = Dtm::start(&host, &["--attach-mode", mode])?;
        let pending = || {
            dtm.samples()
                .map(|samples| samples.sum("dtm_interfaces", &[("state", "pending")]))
        };
        assert_eq!(pending()?, MANY);
        host.run("sh", ["-euc", END_MANY])?;
        eventually(PATIENCE, "the interfaces are seen to go", || {
            Ok((pending()? == 0).then_some(()))
        })?;
        // What is looked at after them tells that they have been looked at, too.
        host.run("sh", ["-euc", MAKE_ONE])?;
        eventually(PATIENCE, "the last interface is attached to", || {
            Ok((attached::to_interfaces(&host)?.len() == 2).then_some(()))
        })?;
        if mode == "clsact" {
            host.run("tc", ["qdisc", "delete", "dev", "last", "clsact"])?;
        } else {
            let links = host.links()?;
            let last = links.iter().find(|link| link.name == "last").context("no last")?;
            detach_link(tcx_links(&host.network()?, last.ifindex, Side::Egress)?[0])?;
        }
        eventually(LATER, "the last interface is mended", || {
            let reattached = dtm.samples()?.get("dtm_reattached_total", &[])?;
            Ok((reattached > 0).then_some(reattached))
        })
        .map(|reattached| assert_eq!(reattached, 1, "{}", dtm.log()))?;
        let log = dtm.log();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
        let [docker, mended] = warnings[..] else {
            panic!("{log}");
        };
        assert!(docker.contains("docker does not answer"), "{log}");
        assert!(mended.contains("somebody had taken a program off"), "{log}");
        dtm.stop()?;
    }
    Ok(())
}

const MANY: u64 = 40;

const MAKE_MANY: &str = "
    ip link add br0 type bridge
    for number in $(seq 40); do
        ip link add host$number type veth peer name peer$number
        ip link set host$number master br0 up
    done
";

/// Of each, a filter comes and the interface goes before anybody had the time to look.
const END_MANY: &str = "
    for number in $(seq 40); do
        tc qdisc replace dev host$number clsact
        tc filter add dev host$number ingress prio 5 protocol all bpf da bytecode '1,6 0 0 0,'
        ip link delete host$number
    done
";

const MAKE_ONE: &str = "
    ip link add last type veth peer name peer
    ip link set last master br0 up
";
