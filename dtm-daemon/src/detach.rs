//! `dtm detach`: takes off and removes what this version of dtm, or any other, has left, and nothing of others.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs,
    fs::File,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    thread,
};

use anyhow::{Context as _, anyhow};

use crate::{
    bpf::{Pins, Removed, is_bpffs, remove_filters},
    config::Paths,
    net::{Requests, dump, enter, mounted_netns, own_netns_inode},
    single::Single,
};

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct Report {
    /// Filters by where their interfaces are.
    filters: BTreeMap<String, usize>,
    /// Pins by their directory.
    pins: BTreeMap<String, Removed>,
    /// Those of other network namespaces that are there.
    others: Vec<String>,
    problems: Vec<String>,
}

impl Report {
    /// Whether nothing of dtm's is left.
    pub fn is_complete(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, filters) in &self.filters {
            writeln!(f, "took {} off interfaces {place}", counted(*filters, "filter"))?;
        }
        for (directory, removed) in &self.pins {
            let Removed {
                links,
                programs,
                maps,
            } = *removed;
            let links = counted(links, "link");
            let (programs, maps) = (counted(programs, "program"), counted(maps, "map"));
            writeln!(f, "removed {links}, {programs} and {maps} from {directory}")?;
        }
        for directory in &self.others {
            writeln!(
                f,
                "left {directory} alone: it is of another network namespace, where dtm may be running"
            )?;
        }
        for problem in &self.problems {
            writeln!(f, "could not {problem}")?;
        }
        if self.problems.is_empty() {
            let is_nothing = self.filters.is_empty() && self.pins.is_empty();
            f.write_str(if is_nothing {
                "there was nothing of dtm's here\n"
            } else {
                "nothing of dtm's is left here\n"
            })
        } else {
            Ok(())
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// Takes everything off and removes it.
///
/// # Errors
///
/// Where a dtm runs in this network namespace, or what is attached cannot be looked at.
pub async fn detach(paths: &Paths) -> anyhow::Result<Report> {
    let single = Single::claim(&paths.procfs).await?;
    let paths = paths.clone();
    let report = tokio::task::spawn_blocking(move || take_off(&paths))
        .await
        .context("take off what was left")?;
    drop(single);
    report
}

fn take_off(paths: &Paths) -> anyhow::Result<Report> {
    let mut report = Report::default();
    // Links first: what a filter and a link count beside each other is counted twice.
    remove_pins(paths, &mut report)?;
    let removed = filters_here().context("take filters off")?;
    report.note_filters("of this network namespace", removed);
    for (name, netns) in namespaces(&paths.docker_netns) {
        match filters_in(netns) {
            Ok(removed) => report.note_filters(&format!("in {name}"), removed),
            Err(error) => report
                .problems
                .push(format!("take filters off in {name}: {error:#}")),
        }
    }
    Ok(report)
}

impl Report {
    fn note_filters(&mut self, place: &str, removed: usize) {
        if removed > 0 {
            self.filters.insert(place.to_owned(), removed);
        }
    }
}

fn remove_pins(paths: &Paths, report: &mut Report) -> anyhow::Result<()> {
    if !is_bpffs(&paths.bpffs).unwrap_or(false) {
        return Ok(());
    }
    let own = own_netns_inode().context("find out which network namespace this is")?;
    let there = inodes(&paths.procfs);
    for (netns, pins) in Pins::all(&paths.bpffs) {
        let directory = pins.directory().display().to_string();
        if netns != own && there.contains(&netns) {
            report.others.push(directory);
            continue;
        }
        match pins.remove() {
            Ok(removed) => drop(report.pins.insert(directory, removed)),
            Err(error) => report.problems.push(format!("remove {directory}: {error}")),
        }
    }
    Ok(())
}

/// The network namespaces that a process is in.
fn inodes(procfs: &Path) -> HashSet<u32> {
    let processes = fs::read_dir(procfs).into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::metadata(process.path().join("ns/net")).ok())
        // The kernel's own number is 32 bits wide.
        .map(|netns| netns.ino() as u32)
        .collect()
}

/// Those that the engine has mounted, of its networks and of its containers.
fn namespaces(directory: &Path) -> Vec<(String, File)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let (netns, _inode) = mounted_netns(&entry.path()).ok()?;
            Some((entry.path().display().to_string(), netns))
        })
        .collect()
}

/// Takes filters off in another network namespace, by a thread that ends there.
fn filters_in(netns: File) -> anyhow::Result<usize> {
    let thread = thread::spawn(move || {
        enter(netns.as_fd()).context("enter the network namespace")?;
        filters_here()
    });
    thread.join().map_err(|_panic| anyhow!("it panicked"))?
}

fn filters_here() -> anyhow::Result<usize> {
    let mut requests = Requests::open()?;
    let links = dump(&mut requests).context("list interfaces")?;
    let mut removed = 0;
    for link in links {
        match remove_filters(&mut requests, link.ifindex) {
            Ok(filters) => removed += filters,
            Err(error) if error.is(libc::ENODEV) => {}
            Err(error) => return Err(error).with_context(|| format!("look at {}", link.name)),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_said_in_plain_numbers() {
        let mut report = Report::default();
        assert_eq!(report.to_string(), "there was nothing of dtm's here\n");
        report.note_filters("of this network namespace", 0);
        report.note_filters("of this network namespace", 2);
        let removed = Removed {
            links: 1,
            programs: 0,
            maps: 10,
        };
        report.pins.insert("/sys/fs/bpf/dtm/v1/7-0".to_owned(), removed);
        assert_eq!(
            report.to_string(),
            "took 2 filters off interfaces of this network namespace\n\
             removed 1 link, 0 programs and 10 maps from /sys/fs/bpf/dtm/v1/7-0\n\
             nothing of dtm's is left here\n"
        );
        report.problems.push("remove /x: busy".to_owned());
        assert!(!report.is_complete());
        assert!(report.to_string().ends_with("could not remove /x: busy\n"));
    }
}
