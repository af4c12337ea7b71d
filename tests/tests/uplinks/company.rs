//! Beside other XDP programs.

use anyhow::{Context as _, Result};
use dtm_tests::{
    foreign::{Foreign, XDP_PASS},
    packets::PacketBuilder,
};
use xtask::host::eventually;

use crate::stage::{LATER, SOON, Stage, UPLINK};

const FRAMES: u64 = 25;

#[test]
fn anothers_program_stays_and_dtm_waits_for_its_end() -> Result<()> {
    let mut stage = Stage::without_dtm()?;
    let network = stage.host.network()?;
    let links = stage.host.links()?;
    let uplink = links
        .iter()
        .find(|link| link.name == UPLINK)
        .context("the cable")?;
    let program = Foreign::xdp(XDP_PASS)?;
    let held = program.attach_xdp(&network, uplink.ifindex)?;
    stage.start(&["--xdp", UPLINK])?;
    let errors = || {
        stage
            .dtm()?
            .samples()?
            .get("dtm_attach_errors_total", &[("reason", "xdp_occupied")])
    };
    eventually(SOON, "dtm has tried", || Ok((errors()? > 0).then_some(())))?;
    assert!(
        stage.dtm()?.log().contains("another XDP program is there"),
        "{}",
        stage.dtm()?.log()
    );
    assert_eq!(stage.mode(UPLINK)?, None);
    let frame = PacketBuilder::ethernet().ipv4().udp(9).payload(50).build();
    let before = program.runs()?;
    let (counted, _kernel) = stage.grown(UPLINK, || stage.send("far0", FRAMES, &frame))?;
    assert_eq!(
        program.runs()? - before,
        FRAMES,
        "the other program sees everything"
    );
    assert_eq!(counted.all(), (0, 0));

    drop(held);
    stage.wait_mode(UPLINK, Some("native"), LATER)?;
    let (counted, _kernel) = stage.grown(UPLINK, || stage.send("far0", FRAMES, &frame))?;
    assert_eq!(counted.protocols["udp"], (FRAMES, FRAMES * frame.len() as u64));

    // And nobody takes dtm's place without being told.
    let refused = program.attach_xdp(&network, uplink.ifindex);
    assert!(refused.is_err(), "a link takes nobody's place");
    Ok(())
}
