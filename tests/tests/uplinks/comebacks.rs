//! Interfaces that come and go, and dtms that do.

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{daemon::binary, packets::PacketBuilder, pins};

use crate::stage::{SOON, Stage, UPLINK};

const FRAMES: u64 = 30;

fn frame() -> Vec<u8> {
    PacketBuilder::ethernet().ipv4().udp(9).payload(50).build()
}

/// Whether the kernel says that an XDP program is at an interface.
fn has_program(stage: &Stage, interface: &str) -> Result<bool> {
    let shown = stage
        .host
        .run("ip", ["-details", "link", "show", "dev", interface])?;
    Ok(shown.contains("prog/xdp"))
}

#[test]
fn an_interface_that_comes_is_counted_and_goes_on_when_it_comes_again() -> Result<()> {
    let stage = Stage::new(&["--xdp", "later0"])?;
    assert_eq!(stage.mode("later0")?, None);
    assert!(
        stage.dtm()?.log().contains("there is no such interface"),
        "{}",
        stage.dtm()?.log()
    );
    let mut expected = 0;
    for _ in 0..3 {
        stage.lay("later0")?;
        stage.wait_mode("later0", Some("native"), SOON)?;
        stage.send("later0", FRAMES, &frame())?;
        expected += FRAMES;
        assert_eq!(stage.counted("later0")?.protocols["udp"].0, expected);
        stage.host.run("ip", ["link", "del", "later0"])?;
        stage.wait_mode("later0", None, SOON)?;
        assert_eq!(
            stage.counted("later0")?.protocols["udp"].0,
            expected,
            "what was counted stays"
        );
    }
    // One of another name is another's, and what has this name now is counted.
    stage.lay("other0")?;
    stage.host.run(
        "sh",
        [
            "-euc",
            "ip link set other0 down; ip link set other0 name later0; ip link set later0 up",
        ],
    )?;
    stage.wait_mode("later0", Some("native"), SOON)?;
    stage.host.run(
        "sh",
        [
            "-euc",
            "ip link set later0 down; ip link set later0 name other0; ip link set other0 up",
        ],
    )?;
    stage.wait_mode("later0", None, SOON)?;
    ensure!(
        !has_program(&stage, "other0")?,
        "the program stays at an interface that is no uplink"
    );
    Ok(())
}

#[test]
fn it_goes_on_counting_while_no_dtm_runs() -> Result<()> {
    let mut stage = Stage::new(&["--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    stage.send("far0", FRAMES, &frame())?;
    let mut expected = stage.counted(UPLINK)?.protocols["udp"].0;
    assert_eq!(expected, FRAMES);
    for is_killed in [false, true] {
        let dtm = stage.dtm.take().context("a dtm")?;
        if is_killed {
            dtm.kill()?;
        } else {
            dtm.stop()?;
        }
        ensure!(has_program(&stage, UPLINK)?, "it is taken off with dtm");
        stage.send("far0", FRAMES, &frame())?;
        stage.start(&["--xdp", UPLINK])?;
        stage.wait_mode(UPLINK, Some("native"), SOON)?;
        stage.send("far0", FRAMES, &frame())?;
        expected += 2 * FRAMES;
        assert_eq!(stage.counted(UPLINK)?.protocols["udp"].0, expected);
    }
    // Who does not name it any more has it no more.
    stage.dtm.take().context("a dtm")?.stop()?;
    stage.start(&[])?;
    ensure!(
        !has_program(&stage, UPLINK)?,
        "it stays where nobody names the uplink"
    );
    stage.dtm.take().context("a dtm")?.stop()?;
    stage.start(&["--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    assert_eq!(stage.counted(UPLINK)?.all().0, 0, "and begins anew");
    Ok(())
}

#[test]
fn maps_of_another_size_take_over_what_was_counted() -> Result<()> {
    let mut stage = Stage::new(&["--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    stage.send("far0", FRAMES, &frame())?;
    stage.dtm.take().context("a dtm")?.stop()?;
    stage.send("far0", FRAMES, &frame())?;
    stage.start(&["--xdp", UPLINK, "--max-interfaces", "128"])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    stage.send("far0", FRAMES, &frame())?;
    assert_eq!(stage.counted(UPLINK)?.protocols["udp"].0, 3 * FRAMES);
    Ok(())
}

#[test]
fn nothing_of_it_is_left_by_who_leaves_nothing() -> Result<()> {
    let mut stage = Stage::new(&["--xdp", UPLINK, "--no-pin"])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    stage.dtm.take().context("a dtm")?.stop()?;
    ensure!(!has_program(&stage, UPLINK)?, "it stays");

    stage.start(&["--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    stage.dtm.take().context("a dtm")?.kill()?;
    ensure!(
        pins::links(&stage.host)?
            .iter()
            .any(|link| link.contains("/uplink-")),
        "it is not pinned"
    );
    let program = binary("dtm")?;
    stage
        .host
        .run(program.to_str().context("a path that is UTF-8")?, ["detach"])?;
    ensure!(!has_program(&stage, UPLINK)?, "dtm detach leaves it");
    ensure!(pins::links(&stage.host)?.is_empty());
    Ok(())
}
