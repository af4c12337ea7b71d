//! A thousand refusals: they are counted, said a few times, and cost hardly anything.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use dtm_tests::{daemon::Dtm, scene::PATIENCE};
use xtask::host::{CgroupWorld, Host, eventually};

/// Interfaces that cannot be attached to.
const REFUSED: usize = 100;

/// How often each of them changes while dtm watches.
const CHANGES: usize = 20;

/// Lines the log has room for of one kind in a minute, and the minutes that the test may touch.
const LINES: usize = 2 * 20;

/// Gives `ip` or `tc` all these lines at once.
fn batch(host: &Host, program: &str, lines: impl Fn(usize) -> String) -> Result<()> {
    let mut text = String::new();
    for number in 0..REFUSED {
        writeln!(text, "{}", lines(number))?;
    }
    let path = host.directory().join("batch");
    fs::write(&path, text).context("write a batch")?;
    let path = path.to_str().context("a path that is UTF-8")?;
    host.run(program, ["-batch", path]).map(drop)
}

/// An `ingress` qdisc leaves no place for the other direction: clsact is refused for ever.
#[test]
fn a_thousand_refused_attachments_are_counted_and_said_a_few_times() -> Result<()> {
    let host = Host::new(CgroupWorld::V2)?;
    host.run("ip", ["netns", "add", "peers"])?;
    host.run("ip", ["link", "add", "bridge0", "up", "type", "bridge"])?;
    batch(&host, "ip", |number| {
        format!("link add host{number} master bridge0 type veth peer name peer{number} netns peers")
    })?;
    batch(&host, "tc", |number| {
        format!("qdisc add dev host{number} ingress")
    })?;
    let dtm = Dtm::start(&host, &["--attach-mode", "clsact"])?;
    let attempts = || {
        dtm.samples()?
            .get("dtm_attach_errors_total", &[("reason", "clsact")])
    };
    assert_eq!(
        dtm.samples()?.get("dtm_interfaces", &[("state", "failed")])?,
        REFUSED as u64
    );
    let before = attempts()?;
    assert!(before >= REFUSED as u64, "{before} attempts");
    for _change in 0..CHANGES {
        batch(&host, "ip", |number| format!("link set host{number} up"))?;
        batch(&host, "ip", |number| format!("link set host{number} down"))?;
    }
    // An attempt for each change would hold RTNL for nothing.
    let changes = (2 * CHANGES * REFUSED) as u64;
    let after = attempts()?;
    assert!(
        after - before < changes / 4,
        "{} attempts for {changes} changes",
        after - before
    );
    let said = dtm
        .log()
        .lines()
        .filter(|line| line.contains("cannot attach"))
        .count();
    assert!((1..=LINES).contains(&said), "{said} lines:\n{}", dtm.log());
    // One that can be had is had, whatever happened to it before.
    host.run("tc", ["qdisc", "del", "dev", "host0", "ingress"])?;
    eventually(PATIENCE, "the interface is attached to", || {
        let failed = dtm.samples()?.get("dtm_interfaces", &[("state", "failed")])?;
        Ok((failed == REFUSED as u64 - 1).then_some(()))
    })?;
    dtm.stop()
}
