//! What a container's connections have done: by its kernel's counters, and as dtm shows it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use xtask::host::{Network, eventually};

use crate::{
    daemon::Samples,
    scene::{PATIENCE, Scene},
};

/// What one container's connections have done, as dtm shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Sent.
    pub segments: u64,
    /// Sent once more, of those.
    pub again: u64,
    /// Opened by it.
    pub client: u64,
    /// Opened by others.
    pub server: u64,
    /// That did not come about, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Received and sent.
    pub resets: (u64, u64),
    /// There are, where that is known.
    pub connections: Option<u64>,
}

/// What dtm shows of a container.
pub fn shown(samples: &Samples, name: &str) -> Result<Shown> {
    let of = [("name", name)];
    let get = |metric: &str| samples.get(&format!("dtm_container_tcp_{metric}"), &of);
    let opened = |role| {
        samples.get(
            "dtm_container_tcp_connections_opened_total",
            &[("name", name), ("role", role)],
        )
    };
    let failed = samples.all("dtm_container_tcp_connections_failed_total", &of);
    Ok(Shown {
        segments: get("transmitted_segments_total")?,
        again: get("retransmitted_segments_total")?,
        client: opened("client")?,
        server: opened("server")?,
        failed: failed
            .map(|sample| (sample.labels["reason"].clone(), sample.count()))
            .collect(),
        resets: (get("resets_received_total")?, get("resets_sent_total")?),
        connections: samples.find("dtm_container_tcp_connections", &of)?,
    })
}

impl Shown {
    /// What came since an earlier look; connections are those of now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let failed = self.failed.iter();
        Self {
            segments: self.segments - earlier.segments,
            again: self.again - earlier.again,
            client: self.client - earlier.client,
            server: self.server - earlier.server,
            failed: failed
                .map(|(reason, count)| (reason.clone(), count - earlier.failed.get(reason).unwrap_or(&0)))
                .collect(),
            resets: (self.resets.0 - earlier.resets.0, self.resets.1 - earlier.resets.1),
            connections: self.connections,
        }
    }

    /// All connections that did not come about.
    pub fn all_failed(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// The counters of a namespace's TCP, by their names in `/proc/net/snmp` and `/proc/net/netstat`.
pub fn kernel(network: &Network) -> Result<BTreeMap<String, u64>> {
    let text = network.run("cat", ["/proc/net/snmp", "/proc/net/netstat"])?;
    let mut counters = BTreeMap::new();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks_exact(2) {
        let is_tcp = |line: &str| line.starts_with("Tcp: ") || line.starts_with("TcpExt: ");
        if !is_tcp(pair[0]) {
            continue;
        }
        let (names, values) = (pair[0].split(' ').skip(1), pair[1].split(' ').skip(1));
        for (name, value) in names.zip(values) {
            // One of them is negative: "no limit".
            counters.insert(name.to_owned(), value.parse::<i64>()?.max(0).cast_unsigned());
        }
    }
    Ok(counters)
}

/// How much a counter has grown.
pub fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str) -> Result<u64> {
    let of =
        |counters: &BTreeMap<String, u64>| counters.get(name).copied().with_context(|| format!("no {name}"));
    Ok(of(after)? - of(before)?)
}

/// The kernel's count of a container's namespace once it does not move any more, and dtm's of the same moment.
pub fn both(scene: &Scene, network: &Network, name: &str) -> Result<(BTreeMap<String, u64>, Shown)> {
    eventually(PATIENCE, "the connections are silent", || {
        let before = kernel(network)?;
        let shown = shown(&scene.samples()?, name)?;
        Ok((kernel(network)? == before).then_some((before, shown)))
    })
}

/// Holds what dtm counts of a container's connections, while something happens to them on a network that loses nothing, to
/// its kernel's counters. Says what happened.
pub fn same_as_kernel(scene: &Scene, name: &str, action: impl FnOnce() -> Result<()>) -> Result<Shown> {
    let network = scene.engine.inside(name)?;
    let before = both(scene, &network, name)?;
    action()?;
    let after = both(scene, &network, name)?;
    let since = after.1.since(&before.1);
    let kernel = |counter: &str| grown(&before.0, &after.0, counter);
    for (what, counted, truth) in [
        ("sent again", since.again, kernel("RetransSegs")?),
        (
            "asked for",
            since.client + since.all_failed(),
            kernel("ActiveOpens")?,
        ),
        ("as a server", since.server, kernel("PassiveOpens")?),
        (
            "segments",
            since.segments,
            kernel("OutSegs")? + kernel("RetransSegs")?,
        ),
        ("failed", since.all_failed(), kernel("AttemptFails")?),
        ("resets sent", since.resets.1, kernel("OutRsts")?),
        (
            "connections",
            after.1.connections.context("connections are known")?,
            after.0["CurrEstab"],
        ),
    ] {
        ensure!(
            counted == truth,
            "{name}, {what}: counted {counted}, the kernel says {truth}: {since:?}"
        );
    }
    Ok(since)
}
