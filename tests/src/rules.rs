//! What rules of a namespace's firewall have counted.

use anyhow::{Context as _, Result};
use xtask::host::Network;

/// The packets that a table of nftables' has counted at its only counter.
pub fn matched(network: &Network, table: &str) -> Result<u64> {
    let listing = network.run("nft", ["list", "table", "inet", table])?;
    let count = listing
        .split_whitespace()
        .skip_while(|word| *word != "packets")
        .nth(1);
    Ok(count.context("a counter")?.parse()?)
}
