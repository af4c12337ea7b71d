//! The demo's containers, which really talk, and gently.

use anyhow::{Context as _, Result};
use xtask::host::{Engine, Image};

use super::sample::Sample;

const IMAGE: &str = "dtm-demo";
/// Of the range for documentation: nobody is there, and nothing leaves the namespace.
const OUTSIDE: &str = "198.51.100.7";
const OUTSIDE_NETWORK: &str = "198.51.100.0/24";
/// More than handshakes and look-ups make.
const BULK: u64 = 1 << 20;
const LARGE: usize = 2 << 20;
const SHORT_LIVED: &str = "shortlived";

/// Name, networks, and what its shell does.
const CONTAINERS: [(&str, &[&str], &str); 6] = [
    ("web", &["front"], "exec httpd -f -p 80 -h /www"),
    // A pipe without an end as its input: nc would take an ended one for the end of the talk.
    (
        "store",
        &["back"],
        "mkfifo /tmp/in; exec 3<>/tmp/in; while :; do nc -l -p 9000 <&3 >/dev/null; done",
    ),
    (
        "client",
        &["front"],
        "while :; do wget -q -O /dev/null http://web/large; sleep 1; done",
    ),
    (
        "pinger",
        &["front"],
        "ping -6 web >/dev/null & exec ping web >/dev/null",
    ),
    (
        "busy",
        &["front", "back"],
        "while :; do dd if=/dev/zero bs=64k count=128 2>/dev/null | nc -w 2 store 9000
         wget -q -O /dev/null http://web/large; sleep 1; done",
    ),
    ("blocked", &["front"], "exec ping 198.51.100.7 >/dev/null"),
];

/// Makes the networks and starts everyone on them.
pub(super) fn set(engine: &Engine) -> Result<()> {
    let large = vec![b'.'; LARGE];
    Image::busybox()?
        .with_file("/www/large", &large)?
        .import(engine, IMAGE)?;
    engine.docker("network create --ipv6 --subnet fd00:d7:1::/64 front".split(' '))?;
    engine.docker(["network", "create", "back"])?;
    for (name, networks, script) in CONTAINERS {
        let (first, more) = networks.split_first().context("a container without a network")?;
        let create = ["create", "--name", name, "--network", first, IMAGE];
        engine.docker(create.into_iter().chain(["sh", "-c", script]))?;
        for network in more {
            engine.docker(["network", "connect", network, name])?;
        }
        engine.docker(["start", name])?;
    }
    block(engine)
}

/// A container that comes, says its few words and goes, within a scrape interval.
pub(super) fn play_short_lived(engine: &Engine) -> Result<()> {
    let script = "for i in 1 2 3 4 5; do echo $i; done | nc -w 1 store 9000; ping -c 3 -i 0.2 store";
    let run = ["run", "--rm", "--name", SHORT_LIVED, "--network", "back", IMAGE];
    engine
        .docker(run.into_iter().chain(["sh", "-c", script]))
        .map(drop)
}

/// Whether every container has been counted, and what is blocked as dropped.
pub(super) fn is_in(sample: &Sample) -> bool {
    let everyone = CONTAINERS.iter().map(|(name, ..)| *name).chain([SHORT_LIVED]);
    everyone.into_iter().all(|name| sample.has_traffic(name))
        && sample.sent("busy", "back") > BULK
        && sample.has_drops("blocked")
}

/// Drops what `blocked` sends out, as an administrator would have it.
fn block(engine: &Engine) -> Result<()> {
    let format = "{{.NetworkSettings.Networks.front.IPAddress}}";
    let address = engine.docker(["inspect", "--format", format, "blocked"])?;
    let host = engine.host();
    // Without a way out the kernel would drop it for that, before any rule.
    host.run("ip", ["route", "add", OUTSIDE_NETWORK, "dev", "lo"])?;
    let rule = ["-I", "DOCKER-USER", "-s", &address, "-d", OUTSIDE, "-j", "DROP"];
    host.run("iptables", rule).map(drop)
}
