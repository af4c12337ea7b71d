//! Where dtm does not attach, and says why.

use anyhow::Result;
use xtask::host::eventually;

use crate::stage::{SOON, Stage, UPLINK};

/// Waits until the log says this of an interface.
fn wait_said(stage: &Stage, interface: &str, part: &str) -> Result<()> {
    let is_it = |line: &str| line.contains(&format!("interface=\"{interface}\"")) && line.contains(part);
    let mut log = String::new();
    let said = eventually(SOON, &format!("the log says {part:?} of {interface}"), || {
        log = stage.dtm()?.log();
        Ok(log.lines().any(is_it).then_some(()))
    });
    anyhow::Context::with_context(said, || log)
}

#[test]
fn a_containers_end_and_the_loopback_are_refused() -> Result<()> {
    let mut stage = Stage::without_dtm()?;
    stage.lay("port0")?;
    stage.host.run("ip", ["link", "add", "lan", "type", "bridge"])?;
    stage.host.run("ip", ["link", "set", "port0", "master", "lan"])?;
    stage.start(&["--xdp", "port0,lo", "--xdp", UPLINK])?;
    stage.wait_mode(UPLINK, Some("native"), SOON)?;
    wait_said(&stage, "port0", "the host's end of a container's interface")?;
    wait_said(&stage, "lo", "the loopback interface")?;
    for interface in ["port0", "lo"] {
        assert_eq!(stage.mode(interface)?, None, "{interface}");
        assert_eq!(stage.counted(interface)?.all(), (0, 0), "{interface}");
    }
    let samples = stage.dtm()?.samples()?;
    assert!(samples.get("dtm_attach_errors_total", &[("reason", "xdp_refused")])? >= 2);
    assert_eq!(
        samples.get("dtm_bpf_program_attached", &[("program", "dtm_uplink")])?,
        1
    );

    // What is a port of a bridge no longer is an uplink like any other, and the other way round.
    stage.host.run("ip", ["link", "set", "port0", "nomaster"])?;
    stage.wait_mode("port0", Some("native"), SOON)?;
    stage.host.run("ip", ["link", "set", "port0", "master", "lan"])?;
    stage.wait_mode("port0", None, SOON)
}

/// The engine's directory of namespaces says whose the other end is.
#[test]
fn an_end_that_leads_into_an_engines_namespace_is_refused() -> Result<()> {
    let stage = Stage::new(&["--xdp", UPLINK, "--path.docker-netns", "/run/netns"])?;
    wait_said(&stage, UPLINK, "the host's end of a container's interface")?;
    assert_eq!(stage.mode(UPLINK)?, None);
    Ok(())
}

#[test]
fn who_names_no_uplink_has_no_program_for_them() -> Result<()> {
    let stage = Stage::new(&[])?;
    let samples = stage.dtm()?.samples()?;
    assert_eq!(
        samples.get("dtm_bpf_program_attached", &[("program", "dtm_uplink")])?,
        0
    );
    assert_eq!(samples.all("dtm_uplink_receive_packets_total", &[]).count(), 0);
    let shown = stage.host.run("ip", ["-details", "link", "show"])?;
    assert!(!shown.contains("xdp"), "{shown}");
    Ok(())
}
