//! Cables between hosts.

use anyhow::{Context as _, Result};

use super::Host;

impl Host {
    /// Joins two hosts by a cable with an end called `name` and an address, with its prefix length, in each. It goes with
    /// the first host that does.
    pub fn join(&self, other: &Self, name: &str, own: &str, others: &str) -> Result<()> {
        let holder = other.holder().to_string();
        let pair = ["link", "add", name, "type", "veth", "peer", "name", name];
        self.run("ip", pair.iter().chain(&["netns", &holder]))
            .with_context(|| format!("lay a cable from {} to {}", self.name(), other.name()))?;
        for (host, address) in [(self, own), (other, others)] {
            host.run("ip", ["address", "add", address, "dev", name])?;
            host.run("ip", ["link", "set", name, "up"])?;
        }
        Ok(())
    }
}
