//! Resets, connections that do not come about, and listeners that take nobody.

use anyhow::{Result, ensure};
use dtm_tests::{
    far::{Version, wait_listening},
    scene::{BACK, PATIENCE},
    tcp::{Shown, grown, kernel},
};
use xtask::host::{EngineKind, eventually};

use crate::stage::Stage;

const TIMES: u64 = 25;

/// Where nobody listens, and where nobody answers.
const CLOSED: u16 = 5999;
const DEAF: u16 = 5998;

/// How many failed for this reason, and none for another.
fn failed(shown: &Shown, reason: &str, times: u64) -> Result<()> {
    for (known, count) in &shown.failed {
        let expected = if known == reason { times } else { 0 };
        ensure!(*count == expected, "{reason}: {shown:?}");
    }
    Ok(())
}

#[test]
fn a_closed_port_is_refused_and_resets_are_counted_on_both_sides() -> Result<()> {
    let stage = Stage::new(EngineKind::newest()?)?;
    for version in Version::ALL {
        let before = [stage.both("client")?, stage.both("server")?];
        let to = stage.server(version)?.replace("5001", &CLOSED.to_string());
        stage.traffic("client", &["tcp-refused", &to, &TIMES.to_string()])?;
        let (client, server) = (stage.both("client")?, stage.both("server")?);
        let since = client.1.since(&before[0].1);
        failed(&since, "refused", TIMES)?;
        assert_eq!(since.resets, (TIMES, 0));
        assert_eq!(since.client, 0, "none was established");
        let since = server.1.since(&before[1].1);
        assert_eq!(since.resets, (0, grown(&before[1].0, &server.0, "OutRsts")?));
        assert_eq!(since.resets.1, TIMES);
        failed(&since, "refused", 0)?;
    }
    Ok(())
}

#[test]
fn nobody_answers_is_told_from_no_way_there_and_from_giving_up() -> Result<()> {
    let stage = Stage::new(EngineKind::newest()?)?;
    let client = stage.inside("client")?;
    // One SYN, and another a second later.
    client.run("sysctl", ["-qw", "net.ipv4.tcp_syn_retries=1"])?;
    let deaf = format!(
        "table inet deaf {{ chain in {{ type filter hook input priority 0; tcp dport {DEAF} drop; \
         tcp dport {} reject with icmpx type host-unreachable; }}; }}",
        DEAF - 1
    );
    stage.inside("server")?.run("nft", [deaf])?;
    for version in Version::ALL {
        let to =
            |port: u16| Ok::<_, anyhow::Error>(stage.server(version)?.replace("5001", &port.to_string()));
        let before = stage.both("client")?;
        let said = stage.traffic("client", &["tcp-try", &to(DEAF)?])?;
        assert_eq!(said.trim(), libc::ETIMEDOUT.to_string());
        let after = stage.both("client")?;
        failed(&after.1.since(&before.1), "timeout", 1)?;
        let again = grown(&before.0, &after.0, "RetransSegs")?;
        ensure!(again > 0, "no SYN was sent again");
        assert_eq!(after.1.since(&before.1).again, again);

        let before = after;
        let said = stage.traffic("client", &["tcp-try", &to(DEAF - 1)?])?;
        let errors = [libc::EHOSTUNREACH, libc::ENETUNREACH].map(|errno| errno.to_string());
        assert!(errors.iter().any(|errno| errno == said.trim()), "{said}");
        let after = stage.both("client")?;
        failed(&after.1.since(&before.1), "unreachable", 1)?;

        let before = after;
        stage.traffic("client", &["tcp-give-up", &to(DEAF)?, &TIMES.to_string()])?;
        let after = stage.both("client")?;
        failed(&after.1.since(&before.1), "other", TIMES)?;
        assert_eq!(grown(&before.0, &after.0, "ActiveOpens")?, TIMES);
    }
    Ok(())
}

#[test]
fn what_a_listener_cannot_take_is_the_kernels_count() -> Result<()> {
    let stage = Stage::new(EngineKind::newest()?)?;
    let busy = CLOSED.to_string();
    stage
        .scene
        .run("busy", BACK, &["traffic", "tcp-neglect", &busy])?;
    let inside = stage.inside("busy")?;
    wait_listening(&inside, CLOSED)?;
    stage.scene.wait_named(&stage.scene.endpoint("busy", BACK)?)?;
    let listen = |kind: &str| {
        let name = format!("dtm_container_tcp_listen_{kind}_total");
        stage.scene.samples()?.find(&name, &[("name", "busy")])
    };
    eventually(PATIENCE, "its listeners are read", || listen("drops"))?;
    let before = kernel(&inside)?;
    let to = format!("{}:{CLOSED}", stage.scene.address("busy", BACK, false)?);
    for _ in 0..6 {
        // Whoever finds the queue full would ask for minutes.
        let ask = ["timeout", "-s", "KILL", "1", "traffic", "tcp-leave", &to, "0"];
        stage.scene.exec("client", &ask).ok();
    }
    let after = kernel(&inside)?;
    let overflows = grown(&before, &after, "ListenOverflows")?;
    ensure!(overflows > 0, "the queue was not full");
    // The kernel's count may still grow: SYNs are sent again.
    let counted = eventually(PATIENCE, "they are read again", || {
        let counted = (listen("overflows")?, listen("drops")?);
        let now = kernel(&inside)?;
        let truth = |name| Ok::<_, anyhow::Error>(Some(grown(&before, &now, name)?));
        Ok((counted == (truth("ListenOverflows")?, truth("ListenDrops")?)).then_some(counted))
    })?;
    assert!(counted.0 >= Some(overflows), "{counted:?}");
    // Of others nothing is.
    let of_others = |name| {
        stage
            .scene
            .samples()?
            .get("dtm_container_tcp_listen_drops_total", &[("name", name)])
    };
    assert_eq!((of_others("client")?, of_others("server")?), (0, 0));
    Ok(())
}
