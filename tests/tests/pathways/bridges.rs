//! Bridge networks and the host's, in both IPs: the truth table.

use anyhow::Result;
use dtm_tests::{
    far::{UDP, Version},
    paths::{
        Paths,
        Way::{Receive, Transmit},
        sums_agree,
    },
};
use xtask::host::EngineKind;

use crate::stage::{
    HOST_PORT, LEFT, OPEN_PORT, PUBLISHED, RIGHT, Stage, datagrams, datagrams_from_ip, outside,
};

const NETWORK: (&str, &str) = ("network", "udp");
const CONTAINER: (&str, &str) = ("container", "udp");
const HOST: (&str, &str) = ("host", "udp");
const INTERNET: (&str, &str) = ("internet", "udp");
const PRIVATE: (&str, &str) = ("private", "udp");
const MULTICAST: (&str, &str) = ("multicast", "udp");

/// On one network, and to the host's addresses.
fn nearby(stage: &Stage, version: Version) -> Result<()> {
    let sent = datagrams(version);
    let to = |address: &str, port| version.port(address, port);
    let beta = to(&stage.address("beta", LEFT, version)?, UDP);
    let expected = Paths::default()
        .cell("alpha", Transmit, NETWORK, sent)
        .cell("beta", Receive, NETWORK, sent)
        .pair("alpha", "beta", sent);
    stage.moves(
        &format!("{version:?} to a neighbour"),
        || stage.send("alpha", &beta),
        &expected,
    )?;

    let to_host = Paths::default()
        .cell("alpha", Transmit, HOST, sent)
        .pair("alpha", "@host", sent);
    let gateway = to(&Stage::gateway(LEFT, version), HOST_PORT);
    stage.moves(
        &format!("{version:?} to the gateway"),
        || stage.send("alpha", &gateway),
        &to_host,
    )?;
    let elsewhere = to(&stage.far.near(version), HOST_PORT);
    stage.moves(
        &format!("{version:?} to another address of the host's"),
        || stage.send("alpha", &elsewhere),
        &to_host,
    )?;
    let gateway = to(&Stage::gateway(RIGHT, version), HOST_PORT);
    stage.moves(
        &format!("{version:?} to another network's gateway"),
        || stage.send("alpha", &gateway),
        &to_host,
    )?;

    let from_host = Paths::default()
        .cell("beta", Receive, HOST, sent)
        .pair("@host", "beta", sent);
    stage.moves(
        &format!("{version:?} from the host"),
        || stage.send_from_host(&beta),
        &from_host,
    )
}

/// To a container on another network: the engine lets nothing through, in IPv4.
fn across(stage: &Stage) -> Result<()> {
    let sent = datagrams(Version::V4);
    let gamma = Version::V4.port(&stage.address("gamma", RIGHT, Version::V4)?, UDP);
    let expected = Paths::default()
        .cell("alpha", Transmit, CONTAINER, sent)
        .pair("alpha", "gamma", sent);
    stage.moves("to another network", || stage.send("alpha", &gamma), &expected)
}

/// What is let through arrives from a container on another network, and is counted once.
fn across_and_let_through(stage: &Stage) -> Result<()> {
    let sent = datagrams(Version::V4);
    let allow = ["-I", "DOCKER-USER", "-s", "172.30.1.0/24", "-j", "ACCEPT"];
    stage.scene.host().run("iptables", allow)?;
    let gamma = Version::V4.port(&stage.address("gamma", RIGHT, Version::V4)?, UDP);
    // Whoever leaves a bridge for another is translated: there it is the host.
    let untranslated = [
        "-t",
        "nat",
        "-I",
        "POSTROUTING",
        "-s",
        "172.30.1.0/24",
        "-d",
        "172.30.2.0/24",
        "-j",
        "ACCEPT",
    ];
    let translated = Paths::default()
        .cell("alpha", Transmit, CONTAINER, sent)
        .cell("gamma", Receive, HOST, sent)
        .pair("alpha", "gamma", sent);
    stage.moves(
        "let through, translated",
        || stage.send("alpha", &gamma),
        &translated,
    )?;
    stage.scene.host().run("iptables", untranslated)?;
    let expected = Paths::default()
        .cell("alpha", Transmit, CONTAINER, sent)
        .cell("gamma", Receive, CONTAINER, sent)
        .pair("alpha", "gamma", sent);
    stage.moves("let through as it is", || stage.send("alpha", &gamma), &expected)
}

/// Out of the host, and to all.
fn far_away(stage: &Stage, version: Version) -> Result<()> {
    let sent = datagrams(version);
    for (is_private, scope, name) in [(false, INTERNET, "@internet"), (true, PRIVATE, "@private")] {
        let to = version.port(outside(version, is_private), UDP);
        let expected = Paths::default()
            .cell("alpha", Transmit, scope, sent)
            .pair("alpha", name, sent);
        stage.moves(
            &format!("{version:?} to {name}"),
            || stage.send("alpha", &to),
            &expected,
        )?;
    }
    Ok(())
}

fn to_all(stage: &Stage, has_proxy: bool) -> Result<()> {
    let sent = datagrams(Version::V4);
    // Everybody on the network is offered it, and it is counted where it was sent.
    let expected = Paths::default()
        .cell("alpha", Transmit, MULTICAST, sent)
        .cell("beta", Receive, MULTICAST, sent)
        .pair("alpha", "@multicast", sent);
    // Without a proxy the engine has a bridge send back to the port that something came from.
    let expected = if has_proxy {
        expected
    } else {
        expected.cell("alpha", Receive, MULTICAST, sent)
    };
    stage.moves("to a group", || stage.send("alpha", "239.77.1.2:5002"), &expected)
}

/// From outside, and from the host, to a port of the host's that leads to a container.
fn published(stage: &Stage) -> Result<()> {
    let sent = datagrams(Version::V4);
    let near = Version::V4.port(&stage.far.near(Version::V4), PUBLISHED);
    let expected = Paths::default()
        .cell("beta", Receive, INTERNET, sent)
        .pair("@internet", "beta", sent);
    let from_outside = || stage.far.send(&near, crate::stage::DATAGRAMS, crate::stage::SIZE);
    stage.moves("from outside to a published port", from_outside, &expected)?;
    let expected = Paths::default()
        .cell("beta", Receive, HOST, sent)
        .pair("@host", "beta", sent);
    let local = format!("127.0.0.1:{PUBLISHED}");
    stage.moves(
        "from the host to a published port",
        || stage.send_from_host(&local),
        &expected,
    )
}

/// From a container to a port of the host's that leads to its neighbour, with and without a proxy.
fn hairpin(stage: &Stage, has_proxy: bool) -> Result<()> {
    let sent = datagrams(Version::V4);
    let near = Version::V4.port(&stage.far.near(Version::V4), PUBLISHED);
    let expected = Paths::default()
        .cell("alpha", Transmit, HOST, sent)
        .pair("alpha", "@host", sent);
    let expected = if has_proxy {
        // The proxy is a process of the host's, which sends anew.
        expected
            .cell("beta", Receive, HOST, sent)
            .pair("@host", "beta", sent)
    } else {
        // It comes back with the address of who sent it, and is counted once.
        expected.cell("beta", Receive, NETWORK, sent)
    };
    stage.moves(
        "back to the same network",
        || stage.send("alpha", &near),
        &expected,
    )
}

/// A container on the host's network, whose packets are counted from the IP header on.
fn on_the_hosts_network(stage: &Stage, version: Version) -> Result<()> {
    let (sent, at_group) = (datagrams(version), datagrams_from_ip(version));
    let open = version.port(&Stage::gateway(LEFT, version), OPEN_PORT);
    let expected = Paths::default()
        .cell("alpha", Transmit, HOST, sent)
        .cell("open", Receive, CONTAINER, at_group)
        .pair("alpha", "@host", sent);
    stage.moves(
        &format!("{version:?} to the host's network"),
        || stage.send("alpha", &open),
        &expected,
    )?;

    let beta = version.port(&stage.address("beta", LEFT, version)?, UDP);
    let expected = Paths::default()
        .cell("open", Transmit, CONTAINER, at_group)
        .cell("beta", Receive, HOST, sent)
        .pair("open", "beta", at_group);
    stage.moves(
        &format!("{version:?} from the host's network"),
        || stage.send("open", &beta),
        &expected,
    )?;

    let far = version.port(outside(version, false), UDP);
    let expected =
        Paths::default()
            .cell("open", Transmit, INTERNET, at_group)
            .pair("open", "@internet", at_group);
    stage.moves(
        &format!("{version:?} from it to outside"),
        || stage.send("open", &far),
        &expected,
    )?;
    if version == Version::V4 {
        let near = version.port(&stage.far.near(version), OPEN_PORT);
        let expected =
            Paths::default()
                .cell("open", Receive, INTERNET, at_group)
                .pair("@internet", "open", at_group);
        let act = || stage.far.send(&near, crate::stage::DATAGRAMS, crate::stage::SIZE);
        stage.moves("to it from outside", act, &expected)?;
    }
    Ok(())
}

fn every_pathway_moves_its_own(kind: EngineKind, has_proxy: bool) -> Result<()> {
    let stage = Stage::new(kind, has_proxy)?;
    for version in Version::ALL {
        nearby(&stage, version)?;
        far_away(&stage, version)?;
        on_the_hosts_network(&stage, version)?;
    }
    across(&stage)?;
    to_all(&stage, has_proxy)?;
    published(&stage)?;
    hairpin(&stage, has_proxy)?;
    // A current engine throws it away before anybody can let it through.
    if kind == EngineKind::Old {
        across_and_let_through(&stage)?;
    }
    sums_agree(&stage.scene)
}

#[test]
fn every_pathway_moves_its_own_on_the_old_engine() -> Result<()> {
    every_pathway_moves_its_own(EngineKind::Old, true)
}

#[test]
fn every_pathway_moves_its_own_on_the_current_engine_without_a_proxy() -> Result<()> {
    every_pathway_moves_its_own(EngineKind::Current, false)
}
