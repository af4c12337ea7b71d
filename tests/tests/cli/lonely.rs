//! Hosts without Docker or without type information: dtm runs, and says what is missing.

use std::time::Duration;

use anyhow::{Context as _, Result};
use dtm_tests::daemon::{Dtm, Samples, binary};
use rustix::process::Signal;
use xtask::host::{Engine, EngineKind, EngineOptions, LinkStatistics, eventually};

use dtm_tests::attached;

use crate::scene::{PATIENCE, Pair, Scene};

/// An orphan waits this long for a name, and Docker for its next try.
const GIVEN_UP_WITHIN: Duration = Duration::from_mins(1);

/// How long a stop may take on a host with a handful of interfaces.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

fn pending(samples: &Samples, mode: &str) -> u64 {
    samples.sum("dtm_interfaces", &[("state", "pending"), ("mode", mode)])
}

#[test]
fn without_docker_it_counts_and_tells_it_when_docker_comes() -> Result<()> {
    let Scene { host, pair, turn } = Scene::new()?;
    let dtm = Dtm::start(&host, &[])?;
    let samples = dtm.samples()?;
    assert_eq!(samples.get("dtm_docker_up", &[])?, 0);
    assert_eq!(pending(&samples, "clsact"), 1, "what is there at the start");
    // The way of one born later is the kernel's to offer.
    let mode = if samples.get("dtm_feature_available", &[("feature", "tcx")])? == 1 {
        "tcx"
    } else {
        "clsact"
    };
    let already = pending(&samples, mode);
    let later = Pair::make(&host, 2)?;
    eventually(PATIENCE, "the later pair is attached to", || {
        Ok((pending(&dtm.samples()?, mode) == already + 1).then_some(()))
    })?;

    let mut expected = LinkStatistics::default();
    for pair in [pair, later] {
        pair.exchange(&host)?;
        let counted = pair.kernel(&host)?;
        assert!(
            counted.rx_packets >= 1000 && counted.tx_packets >= 500,
            "{counted:?}"
        );
        expected.rx_bytes += counted.rx_bytes;
        expected.rx_packets += counted.rx_packets;
        expected.tx_bytes += counted.tx_bytes;
        expected.tx_packets += counted.tx_packets;
        pair.remove(&host)?;
    }
    eventually(PATIENCE, "the pairs are seen to go", || {
        let samples = dtm.samples()?;
        Ok((samples.sum("dtm_interfaces", &[("state", "pending")]) == 0).then_some(()))
    })?;
    assert_eq!(dtm.samples()?.get("dtm_docker_up", &[])?, 0);

    // While nobody could have named them they are not given up: that is said once Docker knows nothing of them either.
    let engine = Engine::start(host, EngineOptions::new(EngineKind::newest()?))?;
    eventually(PATIENCE, "docker is up", || {
        Ok((dtm.samples()?.get("dtm_docker_up", &[])? == 1).then_some(()))
    })?;
    let all = |samples: &Samples, name: &str| samples.sum(&format!("dtm_unattributed_{name}_total"), &[]);
    let samples = eventually(GIVEN_UP_WITHIN, "the pairs are given up", || {
        let samples = dtm.samples()?;
        Ok((all(&samples, "transmit_bytes") >= expected.rx_bytes).then_some(samples))
    })?;
    let counted = LinkStatistics {
        rx_bytes: all(&samples, "transmit_bytes"),
        rx_packets: all(&samples, "transmit_packets"),
        tx_bytes: all(&samples, "receive_bytes"),
        tx_packets: all(&samples, "receive_packets"),
        ..LinkStatistics::default()
    };
    assert_eq!(counted, expected);
    let log = dtm.log();
    assert!(!log.contains("panicked"), "{log}");
    dtm.stop()?;
    engine.close()?;
    drop(turn);
    Ok(())
}

#[test]
fn both_signals_stop_it_and_nothing_stays_attached_that_is_not_pinned() -> Result<()> {
    let scene = Scene::new()?;
    for mode in ["clsact", "tcx"] {
        for signal in [Signal::TERM, Signal::INT] {
            let dtm = Dtm::start(&scene.host, &["--attach-mode", mode, "--no-pin"])?;
            // Both directions of the pair: the check below can see what it looks for.
            let attached = attached::to_interfaces(&scene.host)?;
            assert_eq!(attached.len(), 2, "{attached:?}");
            dtm.end(signal, STOPS_WITHIN)?;
            assert_eq!(attached::to_interfaces(&scene.host)?, [], "{mode} {signal:?}");
        }
    }
    Ok(())
}

#[test]
fn a_stop_during_the_start_leaves_nothing() -> Result<()> {
    let scene = Scene::new()?;
    for _attempt in 0..5 {
        let mut process = scene.host.spawn(binary("dtm")?, ["--no-pin"])?;
        let id = process.id();
        // Not dtm yet, but the shell that becomes it, has none of dtm's handlers and must not be hit.
        eventually(PATIENCE, "dtm watches for signals", || {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            let is_dtm = status.starts_with("Name:\tdtm\n");
            let terminate = 1 << (libc::SIGTERM - 1);
            Ok((is_dtm && caught.is_some_and(|mask| mask & terminate != 0)).then_some(()))
        })?;
        process.signal(Signal::TERM)?;
        let status = process.wait(STOPS_WITHIN)?;
        assert!(status.success(), "{status}: {}", process.log());
        assert_eq!(attached::to_interfaces(&scene.host)?, []);
    }
    Ok(())
}

#[test]
fn what_a_kill_leaves_that_is_not_pinned_is_replaced_and_not_doubled() -> Result<()> {
    let scene = Scene::new()?;
    for (mode, left) in [("clsact", 2), ("tcx", 0)] {
        let arguments = ["--attach-mode", mode, "--no-pin"];
        let mut killed = scene.host.spawn(binary("dtm")?, arguments)?;
        let attached = || attached::to_interfaces(&scene.host);
        eventually(PATIENCE, "dtm is attached", || {
            Ok((attached()?.len() == 2).then_some(()))
        })?;
        killed.kill()?;
        // Links go with their owner, by the kernel's hand and in its time; filters are the interface's.
        eventually(PATIENCE, "what is left is left", || {
            Ok((attached()?.len() == left).then_some(()))
        })?;
        let next = Dtm::start(&scene.host, &arguments)?;
        assert_eq!(attached()?.len(), 2, "{mode}: {:?}", attached()?);
        next.stop()?;
        assert_eq!(attached()?, [], "{mode}");
    }
    Ok(())
}

#[test]
fn without_type_information_it_runs_without_drops_and_says_so_once() -> Result<()> {
    let scene = Scene::new()?;
    let dtm = binary("dtm")?;
    let dtm = dtm.to_str().context("a path that is UTF-8")?;
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let arguments = ["--mount", "--propagation=private", "sh", "-c", hide, "hide", dtm];
    let process = scene.host.spawn("unshare", arguments)?;
    let dtm = Dtm::started(&scene.host, process)?;
    let samples = dtm.samples()?;
    assert_eq!(samples.get("dtm_feature_available", &[("feature", "drops")])?, 0);
    assert_eq!(pending(&samples, "clsact"), 1, "all else works");
    let log = dtm.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let about_drops = warnings
        .iter()
        .filter(|line| line.contains("drops are not counted"));
    assert_eq!(about_drops.count(), 1, "{log}");
    let about_docker = warnings
        .iter()
        .filter(|line| line.contains("docker does not answer"));
    assert_eq!(about_docker.count(), 1, "{log}");
    assert_eq!(warnings.len(), 2, "{log}");
    dtm.stop()
}
