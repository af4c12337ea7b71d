//! What stays in a BPF file system while no dtm runs: maps, programs and links by name, and the journal that says whose
//! they are.
//!
//! `<bpffs>/dtm/v<layout>/<inode of the network namespace>-<run>/` has `maps/`, `programs/`, `links/` and `journal`. Another
//! run is begun beside the former one where its maps cannot be gone on with; that one is then removed.

mod bpffs;
mod memory;
mod names;

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use dtm_common::LAYOUT;

pub use bpffs::{Bpffs, is_bpffs};
use memory::SharedMemory;
pub use names::{LinkName, ProgramName, UplinkName};

use super::sys;
use crate::{
    journal::{Entries, Journal, Place},
    net::own_netns_inode,
};

/// The directory of all of dtm's in a BPF file system.
const OURS: &str = "dtm";

const MAPS: &str = "maps";
const PROGRAMS: &str = "programs";
const LINKS: &str = "links";
const JOURNAL: &str = "journal";
/// The next journal, until it takes the place of the one there is. A name with a dot in it the kernel refuses.
const NEXT_JOURNAL: &str = "journal-next";

/// The link of the tracepoint of drops.
pub(super) const DROPS_LINK: &str = "kfree_skb";

/// The pins of one run in one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    directory: PathBuf,
    layout: u32,
    run: u32,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links, with the programs they held.
    pub links: usize,
    /// Programs that nothing held.
    pub programs: usize,
    /// Maps, the journal's memory included.
    pub maps: usize,
}

impl Pins {
    /// Those of a network namespace, by its inode, of all layouts and runs; the newest run of each layout last.
    pub fn find(bpffs: &Path, netns: u32) -> Vec<Self> {
        let mut found = Self::all(bpffs);
        found.retain(|(inode, _pins)| *inode == netns);
        let mut found: Vec<Self> = found.into_iter().map(|(_inode, pins)| pins).collect();
        found.sort_by_key(|pins| (pins.layout, pins.run));
        found
    }

    /// Those of all network namespaces, with their inodes.
    pub fn all(bpffs: &Path) -> Vec<(u32, Self)> {
        let mut all = Vec::new();
        for (layout, directory) in listed(&bpffs.join(OURS)) {
            let Some(layout) = layout.strip_prefix('v').and_then(|layout| layout.parse().ok()) else {
                continue;
            };
            for (name, directory) in listed(&directory) {
                let numbers = name.split_once('-');
                let numbers = numbers.and_then(|(inode, run)| Some((inode.parse().ok()?, run.parse().ok()?)));
                if let Some((inode, run)) = numbers {
                    all.push((
                        inode,
                        Self {
                            directory,
                            layout,
                            run,
                        },
                    ));
                }
            }
        }
        all
    }

    /// Whether anything is left in the calling thread's network namespace.
    pub(super) fn any(bpffs: &Path) -> bool {
        own_netns_inode().is_ok_and(|netns| !Self::find(bpffs, netns).is_empty())
    }

    /// Makes the directories of the next run of this layout.
    pub(super) fn begin(bpffs: &Path, netns: u32) -> io::Result<Self> {
        let former = Self::find(bpffs, netns).into_iter();
        let run = former
            .filter(Self::is_current)
            .map(|pins| pins.run + 1)
            .max()
            .unwrap_or_default();
        let directory = bpffs
            .join(OURS)
            .join(format!("v{LAYOUT}"))
            .join(format!("{netns}-{run}"));
        for part in [MAPS, PROGRAMS, LINKS] {
            fs::create_dir_all(directory.join(part))?;
        }
        Ok(Self {
            directory,
            layout: LAYOUT,
            run,
        })
    }

    /// Whether its maps are of this dtm's layout.
    pub fn is_current(&self) -> bool {
        self.layout == LAYOUT
    }

    /// The version of its maps' layout.
    pub fn layout(&self) -> u32 {
        self.layout
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What tells it from every other of the same network namespace.
    pub fn name(&self) -> String {
        format!("v{}-{}", self.layout, self.run)
    }

    /// Removes the names of the classifiers of other dtms over these maps. Where they are attached, they go on.
    pub(super) fn forget_other_programs(&self, program: u64) {
        let own = format!("-{program:016x}");
        for (name, path) in listed(&self.directory.join(PROGRAMS)) {
            if name.starts_with("dtm_")
                && !name.ends_with(&own)
                && let Err(error) = unlink(&path)
            {
                tracing::warn!(name, %error, "cannot remove an earlier dtm's program");
            }
        }
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(MAPS).join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(PROGRAMS).join(name)
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.directory.join(LINKS).join(name)
    }

    pub(super) fn uplink(&self, name: UplinkName) -> PathBuf {
        self.link(&name.to_string())
    }

    /// The links of interfaces and groups.
    pub fn links(&self) -> Vec<(LinkName, PathBuf)> {
        let links = listed(&self.directory.join(LINKS)).into_iter();
        links
            .filter_map(|(name, path)| Some((name.parse().ok()?, path)))
            .collect()
    }

    /// The links of uplinks.
    pub fn uplinks(&self) -> Vec<(UplinkName, PathBuf)> {
        let links = listed(&self.directory.join(LINKS)).into_iter();
        links
            .filter_map(|(name, path)| Some((name.parse().ok()?, path)))
            .collect()
    }

    /// The programs that count into one slot each.
    pub fn spares(&self) -> Vec<(ProgramName, PathBuf)> {
        let programs = listed(&self.directory.join(PROGRAMS)).into_iter();
        programs
            .filter_map(|(name, path)| Some((name.parse().ok()?, path)))
            .collect()
    }

    /// Gives a program that counts into one slot a name.
    pub fn pin_program(&self, name: ProgramName, program: BorrowedFd<'_>) -> io::Result<Pin> {
        Pin::new(program, self.program(&name.to_string()))
    }

    /// Opens the journal.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none, `InvalidData` where it is none of a dtm that this one knows.
    pub fn journal(&self) -> io::Result<(Journal<Self>, Entries)> {
        let memory = SharedMemory::of(sys::open(&self.directory.join(JOURNAL))?)?;
        Journal::open(self.clone(), memory)
    }

    /// Takes off and removes everything that is here. What is gone meanwhile is no error.
    pub fn remove(&self) -> io::Result<Removed> {
        for (_name, path) in listed(&self.directory.join(LINKS)) {
            if let Ok(link) = sys::open(&path) {
                // One of a tracepoint cannot be detached: it goes with the last who has it open.
                sys::detach_link(link.as_fd()).ok();
            }
        }
        self.forget()
    }

    /// Removes everything that is here; what somebody has open goes on until they end.
    pub fn forget(&self) -> io::Result<Removed> {
        let mut removed = Removed::default();
        for (_name, path) in listed(&self.directory.join(LINKS)) {
            removed.links += usize::from(unlink(&path)?);
        }
        for (_name, path) in listed(&self.directory.join(PROGRAMS)) {
            removed.programs += usize::from(unlink(&path)?);
        }
        for (_name, path) in listed(&self.directory.join(MAPS)) {
            removed.maps += usize::from(unlink(&path)?);
        }
        unlink(&self.directory.join(NEXT_JOURNAL))?;
        removed.maps += usize::from(unlink(&self.directory.join(JOURNAL))?);
        for part in [MAPS, PROGRAMS, LINKS] {
            gone(fs::remove_dir(self.directory.join(part)))?;
        }
        gone(fs::remove_dir(&self.directory))?;
        // Those above go with the last one in them.
        for above in self.directory.ancestors().skip(1).take(2) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(removed)
    }
}

impl Place for Pins {
    type Region = SharedMemory;

    fn make(&self, bytes: usize) -> io::Result<SharedMemory> {
        SharedMemory::new(bytes)
    }

    fn publish(&self, region: &SharedMemory) -> io::Result<()> {
        let next = self.directory.join(NEXT_JOURNAL);
        // One that was killed in between.
        unlink(&next)?;
        sys::pin(region.map(), &next)?;
        // The kernel has a file by one of the two names at every moment.
        fs::rename(next, self.directory.join(JOURNAL))
    }
}

/// A name in a BPF file system, which goes when this is dropped.
#[derive(Debug)]
pub struct Pin(Option<PathBuf>);

impl Pin {
    /// Gives an object a name.
    pub(super) fn new(object: BorrowedFd<'_>, path: PathBuf) -> io::Result<Self> {
        sys::pin(object, &path)?;
        Ok(Self(Some(path)))
    }

    /// Opens what has this name, and keeps it.
    pub fn open(path: PathBuf) -> io::Result<(OwnedFd, Self)> {
        let object = sys::open(&path)?;
        Ok((object, Self(Some(path))))
    }

    /// Moves it to another name.
    pub(super) fn rename(&mut self, path: PathBuf) -> io::Result<()> {
        if let Some(former) = &mut self.0 {
            fs::rename(&*former, &path)?;
            *former = path;
        }
        Ok(())
    }

    /// Leaves the name to whoever comes next.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(path) = self.0.take_if(|_path| !std::thread::panicking())
            && let Err(error) = unlink(&path)
        {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot remove a pin");
        }
    }
}

/// The names in a directory, with their paths; none where it cannot be read.
fn listed(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect()
}

/// Whether there was such a file.
fn unlink(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
