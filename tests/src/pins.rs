//! What a host's BPF file system has in it, seen from outside.

use std::{collections::BTreeSet, fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};
use xtask::host::Host;

/// Where a BPF file system is on every host.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Every name in it, by its path there; those of directories end with a slash.
pub fn all(host: &Host) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    list(&host.outside(BPFFS), "", &mut names)?;
    Ok(names)
}

/// The links that dtm has there, by their paths.
pub fn links(host: &Host) -> Result<BTreeSet<String>> {
    let mut names = all(host)?;
    names.retain(|name| name.starts_with("dtm/") && name.contains("/links/") && !name.ends_with('/'));
    Ok(names)
}

/// The layouts of the maps that dtm has there: `v1` is the first.
pub fn layouts(host: &Host) -> Result<Vec<String>> {
    let names = all(host)?;
    let layouts = names
        .iter()
        .filter_map(|name| name.strip_prefix("dtm/")?.strip_suffix('/'));
    Ok(layouts
        .filter(|name| !name.contains('/'))
        .map(str::to_owned)
        .collect())
}

fn list(directory: &Path, path: &str, names: &mut BTreeSet<String>) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // One that has gone since its name was read has nothing in it.
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_empty() => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", directory.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        let name = format!("{path}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = format!("{name}/");
            list(&entry.path(), &name, names)?;
            names.insert(name);
        } else {
            names.insert(name);
        }
    }
    Ok(())
}
