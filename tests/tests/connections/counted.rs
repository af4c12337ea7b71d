//! Segments, retransmissions and connections are the kernel's own.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    far::Version,
    tcp::{Shown, grown},
};
use xtask::host::EngineKind;

use crate::stage::Stage;

const CONNECTIONS: u64 = 20;

/// Loses every n-th segment on its way into the server: the kernel's rule counts them.
const LOSS: &str = "table inet loss { chain in { type filter hook input priority 0; \
                    tcp dport 5001 numgen inc mod 7 == 3 counter drop; }; }";

fn segments_and_connections_are_the_kernels(kind: EngineKind) -> Result<()> {
    let stage = Stage::new(kind)?;
    for lossy in [false, true] {
        if lossy {
            stage.inside("server")?.run("nft", [LOSS])?;
        }
        for version in Version::ALL {
            let before = [stage.both("client")?, stage.both("server")?];
            let to = stage.server(version)?;
            for _ in 0..CONNECTIONS {
                stage.traffic("client", &["tcp-ping", &to, "5", "3000"])?;
            }
            for (name, before) in ["client", "server"].into_iter().zip(&before) {
                let (after, shown) = stage.both(name)?;
                let since = shown.since(&before.1);
                let kernel = |counter: &str| grown(&before.0, &after, counter);
                let what = format!("{name}, {version:?}, lossy {lossy}: {since:?}");
                assert_eq!(since.again, kernel("RetransSegs")?, "{what}");
                assert_eq!(since.client, kernel("ActiveOpens")?, "{what}");
                assert_eq!(since.server, kernel("PassiveOpens")?, "{what}");
                // What is sent again is no "OutSegs", but a SYN-ACK is each time.
                let again =
                    kernel("RetransSegs")? - kernel("TCPSynRetrans")?.min(synacks_again(name, &since));
                assert_eq!(since.segments, kernel("OutSegs")? + again, "{what}");
                assert_eq!(since.all_failed(), kernel("AttemptFails")?, "{what}");
                assert_eq!(
                    shown.connections.context("connections are known")?,
                    after["CurrEstab"],
                    "{what}"
                );
            }
        }
    }
    let (_kernel, shown) = stage.both("client")?;
    ensure!(
        shown.again > CONNECTIONS,
        "hardly anything was sent again: {shown:?}"
    );
    Ok(())
}

/// Only the client's SYNs are "`TCPSynRetrans`", and the server's SYN-ACKs.
fn synacks_again(name: &str, shown: &Shown) -> u64 {
    if name == "server" { shown.again } else { 0 }
}

#[test]
fn segments_and_connections_are_the_kernels_on_the_old_engine() -> Result<()> {
    segments_and_connections_are_the_kernels(EngineKind::Old)
}

#[test]
fn segments_and_connections_are_the_kernels_on_the_current_engine() -> Result<()> {
    segments_and_connections_are_the_kernels(EngineKind::Current)
}
