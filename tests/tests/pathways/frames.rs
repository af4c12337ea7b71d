//! Frames of every kind, sent as they are to a hardware address that nobody has: a bridge offers them to everybody, and nobody
//! answers.

use anyhow::Result;
use dtm_tests::{
    far::{Version, traffic},
    packets::PacketBuilder,
    paths::{
        Amount, Paths,
        Way::{Receive, Transmit},
        sums_agree,
    },
};
use xtask::host::EngineKind;

use crate::stage::{LEFT, RIGHT, Stage};

const FRAMES: u64 = 15;
/// Two hardware addresses of nobody's: for whom it is, and who says to have sent it.
const NOBODY: &str = "0200000000fe0200000000fd";

/// A frame's name, itself, its scope and protocol for who sends it, the same for who is offered it, and to whom it goes.
type Case = (
    &'static str,
    Vec<u8>,
    (&'static str, &'static str),
    (&'static str, &'static str),
    &'static str,
);

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases(stage: &Stage) -> Result<Vec<Case>> {
    let v4 = |name, network| -> Result<std::net::Ipv4Addr> {
        Ok(stage.address(name, network, Version::V4)?.parse()?)
    };
    let v6 = |name, network| -> Result<std::net::Ipv6Addr> {
        Ok(stage.address(name, network, Version::V6)?.parse()?)
    };
    let (alpha, beta, gamma) = (v4("alpha", LEFT)?, v4("beta", LEFT)?, v4("gamma", RIGHT)?);
    let (alpha6, beta6) = (v6("alpha", LEFT)?, v6("beta", LEFT)?);
    let to = |address: &str| PacketBuilder::ethernet().ipv4_between(alpha, address.parse().unwrap_or(beta));
    let to6 =
        |address: &str| PacketBuilder::ethernet().ipv6_between(alpha6, address.parse().unwrap_or(beta6));
    let mac = stage.scene.engine.container_link("beta", LEFT)?.address;
    let octets: Vec<u8> = mac
        .split(':')
        .filter_map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let on_link = format!(
        "fe80::{:x}:{:x}:{:x}:{:x}",
        word(octets[0] ^ 2, octets[1]),
        word(octets[2], 0xff),
        word(0xfe, octets[3]),
        word(octets[4], octets[5])
    );
    let (neighbour, neighbour6) = (beta.to_string(), beta6.to_string());
    let network = |protocol| ("network", protocol);
    let multicast = |protocol| ("multicast", protocol);
    let long = |builder: PacketBuilder| builder.payload(60).build();
    Ok(vec![
        (
            "SCTP",
            long(to(&neighbour).sctp()),
            network("other"),
            network("other"),
            "beta",
        ),
        (
            "ICMP",
            long(to(&neighbour).icmp()),
            network("icmp"),
            network("icmp"),
            "beta",
        ),
        (
            "options",
            long(to(&neighbour).options(3).udp(9)),
            network("udp"),
            network("udp"),
            "beta",
        ),
        (
            "TCP over IPv6",
            long(to6(&neighbour6).tcp()),
            network("tcp"),
            network("tcp"),
            "beta",
        ),
        (
            "an extension",
            long(to6(&neighbour6).extension(0, 1).udp(9)),
            network("udp"),
            network("udp"),
            "beta",
        ),
        (
            "a later fragment",
            long(to(&neighbour).udp(9).fragment(100, false)),
            network("udp"),
            network("udp"),
            "beta",
        ),
        (
            "ICMP's number in IPv6",
            long(to6(&neighbour6).icmp()),
            network("other"),
            network("other"),
            "beta",
        ),
        (
            "a link-local address",
            long(to6(&on_link).udp(9)),
            network("udp"),
            network("udp"),
            "beta",
        ),
        (
            "one of nobody's",
            long(to6("fe80::1:2:3:4").udp(9)),
            network("udp"),
            network("udp"),
            "@private",
        ),
        (
            "a neighbour nobody knows",
            long(to("172.30.1.77").udp(9)),
            network("udp"),
            network("udp"),
            "@private",
        ),
        (
            "the network's last address",
            long(to("172.30.1.255").udp(9)),
            multicast("udp"),
            multicast("udp"),
            "@multicast",
        ),
        (
            "everybody",
            long(to("255.255.255.255").udp(9)),
            multicast("udp"),
            multicast("udp"),
            "@multicast",
        ),
        (
            "a group of IPv6",
            long(to6("ff02::77").udp(9)),
            multicast("udp"),
            multicast("udp"),
            "@multicast",
        ),
        (
            "itself",
            long(to("127.0.0.1").udp(9)),
            ("other", "udp"),
            network("udp"),
            "@other",
        ),
        (
            "nobody's address",
            long(to("0.0.0.0").udp(9)),
            ("other", "udp"),
            network("udp"),
            "@other",
        ),
        (
            "the gateway",
            long(to("172.30.1.1").udp(9)),
            ("host", "udp"),
            network("udp"),
            "@host",
        ),
        (
            "another network",
            long(to(&gamma.to_string()).udp(9)),
            ("container", "udp"),
            network("udp"),
            "gamma",
        ),
        (
            "the carriers' block",
            long(to("100.64.0.9").udp(9)),
            ("private", "udp"),
            network("udp"),
            "@private",
        ),
        (
            "a service of the cloud",
            long(to("169.254.169.254").tcp()),
            ("private", "tcp"),
            network("tcp"),
            "@private",
        ),
        (
            "outside",
            long(to6("2001:db8::9").tcp()),
            ("internet", "tcp"),
            network("tcp"),
            "@internet",
        ),
        (
            "ARP",
            PacketBuilder::ethernet().arp().build(),
            ("other", "other"),
            ("other", "other"),
            "@other",
        ),
        (
            "what nobody knows",
            long(PacketBuilder::ethernet()),
            ("other", "other"),
            ("other", "other"),
            "@other",
        ),
        (
            "somebody else's sender",
            long(PacketBuilder::ethernet().ipv4_between(gamma, beta).udp(9)),
            network("udp"),
            ("container", "udp"),
            "beta",
        ),
        (
            "the host for a sender",
            long(
                PacketBuilder::ethernet()
                    .ipv4_between("172.30.1.1".parse()?, beta)
                    .udp(9),
            ),
            network("udp"),
            ("host", "udp"),
            "beta",
        ),
    ])
}

#[test]
fn every_kind_of_frame_moves_its_own() -> Result<()> {
    let stage = Stage::new(EngineKind::Old, true)?;
    // A firewall at the bridge would throw away what no kernel has made.
    let settings = [
        "net.bridge.bridge-nf-call-iptables=0",
        "net.bridge.bridge-nf-call-ip6tables=0",
    ];
    stage
        .scene
        .host()
        .run("sysctl", ["-qw"].iter().chain(&settings))?;
    for (name, frame, sent, offered, destination) in cases(&stage)? {
        let amount = Amount {
            packets: FRAMES,
            bytes: FRAMES * frame.len() as u64,
        };
        let expected = Paths::default()
            .cell("alpha", Transmit, sent, amount)
            .cell("beta", Receive, offered, amount)
            .pair("alpha", destination, amount);
        let bytes: Vec<_> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut text = bytes.concat();
        text.replace_range(..24, NOBODY);
        let act = || {
            let send = ["frames", "eth0", &FRAMES.to_string(), &text];
            stage
                .scene
                .engine
                .inside("alpha")?
                .run(traffic()?, send)
                .map(drop)
        };
        stage.moves(name, act, &expected)?;
    }
    sums_agree(&stage.scene)
}
