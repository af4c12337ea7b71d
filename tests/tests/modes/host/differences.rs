//! Where a control group sees something else than an interface, other than of connections.

use std::fs;

use anyhow::{Result, ensure};
use dtm_tests::{
    far::{Version, udp_count, wait_listening},
    packets::PacketBuilder,
    scene::{PATIENCE, Scene},
    tally::{Tally, Ways},
};
use xtask::host::eventually;

use super::stage::{ONE, Stage, TWO, datagrams};
use crate::facts::{agree, nothing, received};

/// Answers to pings, and to datagrams for which there is no socket, are nobody's.
pub(super) fn kernels_answers(stage: &Stage) -> Result<()> {
    let near = stage.far.near(Version::V4);
    let grown = stage.during([ONE.name, TWO.name], || {
        stage
            .far
            .network()
            .run("busybox", ["ping", "-c", "5", "-i", "0.1", &near])?;
        // Two: the answer to the first is the error of the second.
        let refused = stage.far.send(&Version::V4.port(&near, 9), 2, 100);
        ensure!(refused.is_err(), "somebody listens");
        Ok(())
    })?;
    for grown in grown {
        nothing("answers of the kernel", grown)?;
    }
    Ok(())
}

/// Sent by a socket, and the answers given to it.
pub(super) fn own_pings(stage: &Stage) -> Result<()> {
    const PINGS: u64 = 5;
    const SIZE: u64 = 100;
    let far = stage.far.address(Version::V4);
    let [one, two] = stage.during([ONE.name, TWO.name], || {
        let ping = [
            "ping",
            "-c",
            &PINGS.to_string(),
            "-i",
            "0.1",
            "-s",
            &SIZE.to_string(),
            &far,
        ];
        stage.scene.exec(ONE.name, &ping).map(drop)
    })?;
    // Behind the headers of IPv4 and ICMP.
    let truth = Tally::of(PINGS, SIZE + 20 + 8);
    agree(
        "pings",
        one,
        Ways {
            receive: truth,
            transmit: truth,
        },
    )?;
    nothing("the other container", two)
}

/// Below the layer at which a control group sees.
pub(super) fn packet_sockets(stage: &Stage) -> Result<()> {
    let frame = PacketBuilder::ethernet().payload(500).build();
    let frame: Vec<_> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let (frame, interface) = (frame.concat(), stage.far.interface());
    let counted = || -> Result<u64> {
        let statistics = fs::read_to_string(
            stage
                .scene
                .host()
                .outside(&format!("/sys/class/net/{interface}/statistics/tx_packets")),
        )?;
        Ok(statistics.trim().parse()?)
    };
    let before = counted()?;
    let grown = stage.during([ONE.name, TWO.name], || {
        stage.traffic(ONE.name, &["frames", &interface, "100", &frame])
    })?;
    ensure!(counted()? - before >= 100, "the frames have left");
    for grown in grown {
        nothing("frames", grown)?;
    }
    Ok(())
}

/// Seen before they are made and after they are put together: one packet of any size.
pub(super) fn fragments(stage: &Stage) -> Result<()> {
    const SIZE: u64 = 4000;
    for version in Version::ALL {
        let (far, near) = (stage.far_udp(version), stage.udp(ONE, version));
        let [one, two] = stage.during([ONE.name, TWO.name], || {
            stage.send(ONE.name, &far, 40, SIZE)?;
            stage.far.send(&near, 30, SIZE)
        })?;
        let truth = Ways {
            receive: datagrams(version, 30, SIZE),
            transmit: datagrams(version, 40, SIZE),
        };
        agree(&format!("{version:?}"), one, truth)?;
        nothing("the other container", two)?;
    }
    Ok(())
}

/// Each of a container's sockets in a group is given what the interface has received once.
pub(super) fn multicast(stage: &Stage) -> Result<()> {
    const GROUP: &str = "239.77.7.7:6007";
    const MEMBERS: u64 = 3;
    let near = stage.far.near(Version::V4);
    let receive = ["traffic", "multicast-receive", GROUP, &near, &MEMBERS.to_string()];
    let name = "members";
    stage.scene.run(name, "host", &receive)?;
    let network = stage.scene.host().network()?;
    eventually(PATIENCE, "all have joined", || {
        let sockets = network.run("ss", ["-Huan", "sport", ":6007"])?;
        Ok((sockets.lines().count() as u64 == MEMBERS).then_some(()))
    })?;
    stage.wait_shown(name)?;
    let grown = stage.during([name, ONE.name], || stage.far.send(GROUP, 50, 300))?;
    remove(&stage.scene, name)?;
    agree(
        "a copy for each",
        grown,
        [
            received(datagrams(Version::V4, MEMBERS * 50, 300)),
            Ways::default(),
        ],
    )
}

/// The kernel throws away what a socket has no room for after the control group's program has seen it.
pub(super) fn full_buffer(stage: &Stage) -> Result<()> {
    let name = "busy";
    stage
        .scene
        .run(name, "host", &["traffic", "udp-neglect", "6008"])?;
    let network = stage.scene.host().network()?;
    wait_listening(&network, 6008)?;
    stage.wait_shown(name)?;
    let before = udp_count(&network, "RcvbufErrors")?;
    let to = Version::V4.port(&stage.far.near(Version::V4), 6008);
    let grown = stage.during([name, ONE.name], || stage.far.send(&to, 200, 1000))?;
    let dropped = udp_count(&network, "RcvbufErrors")? - before;
    remove(&stage.scene, name)?;
    ensure!(
        (100..200).contains(&dropped),
        "the kernel has thrown away {dropped} of 200"
    );
    agree(
        "all that was offered",
        grown,
        [received(datagrams(Version::V4, 200, 1000)), Ways::default()],
    )
}

fn remove(scene: &Scene, container: &str) -> Result<()> {
    scene.engine.docker(["rm", "--force", container]).map(drop)
}
