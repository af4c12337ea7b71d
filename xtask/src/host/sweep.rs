//! Clearing away hosts whose owner and warden were both killed.

use std::collections::BTreeSet;
use std::fs;

use super::cgroups::Hierarchies;
use super::name::HostName;
use super::warden;

/// Cleans up for the dead. What cannot be cleaned is said, and harms nobody but the disk.
pub(super) fn sweep(hierarchies: &Hierarchies) {
    let base = std::env::temp_dir();
    let places = hierarchies.all().chain(std::iter::once(&base));
    let dead: BTreeSet<HostName> = places
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<HostName>().ok())
        .filter(|name| !name.owner_lives())
        .collect();
    for name in dead {
        let name = name.to_string();
        if let Err(error) = warden::clean(&name, &base.join(&name), hierarchies) {
            eprintln!("{error:#}");
        }
    }
}
