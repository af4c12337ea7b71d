//! Addresses that come to be others', and addresses that two have.

use anyhow::Result;
use dtm_tests::{
    far::{UDP, Version},
    paths::{
        Paths,
        Way::{Receive, Transmit},
        moves_of,
    },
};
use xtask::host::EngineKind;

use crate::stage::{HOST_PORT, LEFT, Stage, datagrams};

const NETWORK: (&str, &str) = ("network", "udp");
/// An address that one has and then another.
const SHARED: &str = "172.30.1.50";

fn start(stage: &Stage, name: &str, network: &str, address: &str) -> Result<()> {
    let options = ["--network", network, "--ip", address];
    let receive = ["traffic", "udp-receive", &UDP.to_string()];
    stage.scene.run_with(name, &options, &receive)?;
    stage.scene.wait_named(&stage.scene.endpoint(name, network)?)
}

#[test]
fn an_address_is_whose_it_is_at_the_moment() -> Result<()> {
    let stage = Stage::new(EngineKind::Old, true)?;
    let sent = datagrams(Version::V4);
    let to = Version::V4.port(SHARED, UDP);
    let from_alpha = Paths::default().cell("alpha", Transmit, NETWORK, sent);
    let part = Paths::without_chatter;
    for name in ["first", "second"] {
        start(&stage, name, LEFT, SHARED)?;
        stage.silence(name)?;
        stage.introduce(name, LEFT)?;
        let expected = from_alpha
            .clone()
            .cell(name, Receive, NETWORK, sent)
            .pair("alpha", name, sent);
        moves_of(&stage.scene, name, || stage.send("alpha", &to), &expected, part)?;
        stage.scene.engine.docker(["rm", "--force", name])?;
    }
    // Nobody has it now: the neighbours' tables are empty, but somebody may be meant.
    let known = ["neighbour", "replace", SHARED, "lladdr", "02:00:00:00:00:fe"];
    let place = ["dev", "eth0", "nud", "permanent"];
    stage
        .scene
        .engine
        .inside("alpha")?
        .run("ip", known.iter().chain(&place))?;
    let expected = from_alpha
        .cell("beta", Receive, NETWORK, sent)
        .pair("alpha", "@private", sent);
    moves_of(
        &stage.scene,
        "nobody",
        || stage.send("alpha", &to),
        &expected,
        part,
    )
}

#[test]
fn the_hosts_addresses_are_followed() -> Result<()> {
    let stage = Stage::new(EngineKind::Old, true)?;
    for (version, address) in [
        (Version::V4, "203.0.113.9/32"),
        (Version::V6, "2001:db8:5::9/128"),
    ] {
        let sent = datagrams(version);
        let (bare, _bits) = address.split_once('/').unwrap_or((address, ""));
        // Elsewhere than on an interface of the host's it leads outside.
        let via = stage.far.address(version);
        stage
            .scene
            .host()
            .run("ip", ["route", "add", address, "via", &via])?;
        let to = version.port(bare, HOST_PORT);
        let expected = |scope, name| {
            Paths::default()
                .cell("alpha", Transmit, (scope, "udp"), sent)
                .pair("alpha", name, sent)
        };
        let (to_host, to_outside) = (expected("host", "@host"), expected("internet", "@internet"));
        let tell = || stage.send("alpha", &to);
        let change = |what| {
            stage
                .scene
                .host()
                .run("ip", ["address", what, address, "dev", "near1"])
        };
        stage.moves("before", tell, &to_outside)?;
        change("add")?;
        stage.moves("while it is the host's", tell, &to_host)?;
        change("del")?;
        stage.moves("after", tell, &to_outside)?;
    }
    Ok(())
}
