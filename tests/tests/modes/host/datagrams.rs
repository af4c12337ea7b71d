//! Datagrams, of which the sender knows how many bytes they are.

use anyhow::Result;
use dtm_tests::{
    far::{UDP, Version, traffic},
    scene::FRONT,
    tally::Ways,
};

use super::stage::{BRIDGED, ONE, Stage, TWO, datagrams};
use crate::{
    facts::{agree, nothing, sent},
    places::{Place, all_exact, during},
};

/// Of an Ethernet interface as it comes.
const MTU: u64 = 1500;

/// Both ways, both versions, from the smallest to the largest that is one packet.
pub(super) fn up_to_the_mtu(stage: &Stage) -> Result<()> {
    for version in Version::ALL {
        let (far, near) = (stage.far_udp(version), stage.udp(ONE, version));
        let largest = MTU - version.udp_headers();
        let [one, two] = stage.during([ONE.name, TWO.name], || {
            stage.send(ONE.name, &far, 300, largest)?;
            stage.send(ONE.name, &far, 50, 1)?;
            stage.far.send(&near, 200, largest)?;
            stage.far.send(&near, 100, 77)
        })?;
        let truth = Ways {
            receive: datagrams(version, 200, largest) + datagrams(version, 100, 77),
            transmit: datagrams(version, 300, largest) + datagrams(version, 50, 1),
        };
        agree(&format!("{version:?}"), one, truth)?;
        nothing("the other container", two)?;
    }
    Ok(())
}

/// Both send to the same place from the same address, and so does the host itself.
pub(super) fn of_their_own(stage: &Stage) -> Result<()> {
    let version = Version::V4;
    let far = stage.far_udp(version);
    let grown = stage.during([ONE.name, TWO.name], || {
        stage.send(ONE.name, &far, 100, 500)?;
        stage.send(TWO.name, &far, 200, 600)?;
        stage
            .scene
            .host()
            .run(&traffic()?, ["udp-send", &far, "400", "700"])?;
        stage.far.send(&stage.udp(TWO, version), 50, 800)
    })?;
    let truth = [
        sent(datagrams(version, 100, 500)),
        Ways {
            receive: datagrams(version, 50, 800),
            transmit: datagrams(version, 200, 600),
        },
    ];
    agree("both containers", grown, truth)
}

/// What never leaves the host: to itself, to the other container, at any of the host's addresses.
pub(super) fn over_loopback(stage: &Stage) -> Result<()> {
    let at = |address: &str, port: u16| format!("{address}:{port}");
    let near = stage.far.near(Version::V4);
    let grown = stage.during([ONE.name, TWO.name], || {
        for address in ["127.0.0.1", "[::1]", &near] {
            stage.send(ONE.name, &at(address, ONE.udp), 100, 500)?;
            stage.send(ONE.name, &at(address, TWO.udp), 100, 500)?;
            stage.traffic(TWO.name, &["tcp-send", &at(address, ONE.tcp), "100000"])?;
        }
        Ok(())
    })?;
    for grown in grown {
        nothing("over the loopback", grown)?;
    }
    Ok(())
}

/// To and from a container on a bridge network: the one counts packets, the other frames.
pub(super) fn to_a_bridge(stage: &Stage) -> Result<()> {
    let version = Version::V4;
    let bridged = Place::on_bridge(&stage.scene, BRIDGED, FRONT)?;
    bridged.wait_shown(&stage.scene)?;
    let address = stage.scene.address(BRIDGED, FRONT, false)?;
    let gateway = "{{(index .IPAM.Config 0).Gateway}}";
    let gateway = stage
        .scene
        .engine
        .docker(["network", "inspect", "--format", gateway, FRONT])?;
    let back = format!("{gateway}:{}", ONE.udp);
    let there = format!("{address}:{UDP}");
    let mut at_bridge = Vec::new();
    let [one, two] = stage.during([ONE.name, TWO.name], || {
        at_bridge = during(&stage.scene, &[&bridged], || {
            stage.send(ONE.name, &there, 100, 600)?;
            stage.traffic(BRIDGED, &["udp-send", &back, "60", "400"])
        })?;
        Ok(())
    })?;
    let truth = Ways {
        receive: datagrams(version, 60, 400),
        transmit: datagrams(version, 100, 600),
    };
    agree("on the host's network", one, truth)?;
    nothing("the other container", two)?;
    all_exact(&[&bridged], &at_bridge)
}
