//! What falls out of the same look at a packet: connection requests, and what kinds of services the internet carries.

use anyhow::{Result, ensure};
use dtm_tests::{
    daemon::Samples,
    far::Version,
    paths::{at_rest, sums_agree},
};
use xtask::host::EngineKind;

use crate::stage::{LEFT, Stage, datagrams, outside};

const REQUESTS: u64 = 25;

/// Bytes of a container that went to services of each kind: cleartext, TLS, well known, other.
fn services(samples: &Samples, name: &str) -> Result<[u64; 4]> {
    let metric = "dtm_container_internet_transmit_bytes_total";
    let of = |service| samples.get(metric, &[("name", name), ("service", service)]);
    Ok([of("cleartext")?, of("tls")?, of("well_known")?, of("other")?])
}

fn requests(samples: &Samples, name: &str) -> Result<(u64, u64)> {
    let of = |way| samples.get(&format!("dtm_container_tcp_syns_{way}_total"), &[("name", name)]);
    Ok((of("received")?, of("sent")?))
}

#[test]
fn the_internet_is_told_apart_by_ports_and_connections_are_counted_when_they_are_asked_for() -> Result<()> {
    let stage = Stage::new(EngineKind::Old, true)?;
    for version in Version::ALL {
        let sent = datagrams(version).bytes;
        for (port, kind) in [
            (80, 0),
            (443, 1),
            (853, 1),
            (53, 2),
            (51_820, 2),
            (6379, 0),
            (40_000, 3),
        ] {
            at_rest(&stage.scene, |paths| paths)?;
            let before = services(&stage.scene.samples()?, "alpha")?;
            stage.send("alpha", &version.port(outside(version, false), port))?;
            at_rest(&stage.scene, |paths| paths)?;
            let after = services(&stage.scene.samples()?, "alpha")?;
            let mut expected = before;
            expected[kind] += sent;
            ensure!(
                after == expected,
                "{version:?} to port {port}: {after:?} and not {expected:?}"
            );
        }
    }
    let before = stage.scene.samples()?;
    for version in Version::ALL {
        let nobody = version.port(&stage.address("beta", LEFT, version)?, 9);
        let refused = ["traffic", "tcp-refused", &nobody, &REQUESTS.to_string()];
        stage.scene.exec("alpha", &refused)?;
    }
    at_rest(&stage.scene, |paths| paths)?;
    let after = stage.scene.samples()?;
    let grown = |name: &str| -> Result<(u64, u64)> {
        let (before, after) = (requests(&before, name)?, requests(&after, name)?);
        Ok((after.0 - before.0, after.1 - before.1))
    };
    ensure!(
        grown("alpha")? == (0, 2 * REQUESTS),
        "alpha asked: {:?}",
        grown("alpha")?
    );
    ensure!(
        grown("beta")? == (2 * REQUESTS, 0),
        "beta was asked: {:?}",
        grown("beta")?
    );
    sums_agree(&stage.scene)
}
