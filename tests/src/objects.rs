//! The kernel's view of programs, links and maps, read past dtm: by id, with bpf(2).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{MapData, loaded_maps},
    programs::{loaded_links, loaded_programs},
};
use xtask::host::eventually;

use crate::scene::PATIENCE;

/// The programs, links and maps a process has open, by id. The kernel uses no id twice.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The programs.
    pub programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
    maps: BTreeMap<u32, String>,
}

impl Objects {
    /// Those of a process, by its id.
    pub fn of(process: u32) -> Result<Self> {
        let mut objects = Self::default();
        for entry in fs::read_dir(format!("/proc/{process}/fdinfo")).context("list descriptors")? {
            // One that was closed meanwhile is none.
            let Ok(info) = entry.and_then(|entry| fs::read_to_string(entry.path())) else {
                continue;
            };
            let id = |kind: &str| -> Option<u32> {
                let found = info.lines().find_map(|line| line.strip_prefix(kind));
                found?.trim().parse().ok()
            };
            objects.programs.extend(id("prog_id:"));
            objects.links.extend(id("link_id:"));
            if let Some(id) = id("map_id:") {
                let name = MapData::from_id(id)?.info()?.name_as_str().map(str::to_owned);
                objects.maps.insert(id, name.unwrap_or_default());
            }
        }
        Ok(objects)
    }

    /// How many of each.
    pub fn kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::from([
            ("program".to_owned(), self.programs.len()),
            ("link".to_owned(), self.links.len()),
        ]);
        for name in self.maps.values() {
            *kinds.entry(format!("map {name}")).or_default() += 1;
        }
        kinds
    }

    /// Those that `others` are not.
    #[must_use]
    pub fn without(mut self, others: &Self) -> Self {
        self.programs.retain(|program| !others.programs.contains(program));
        self.links.retain(|link| !others.links.contains(link));
        self.maps.retain(|map, _name| !others.maps.contains_key(map));
        self
    }

    /// Waits until the kernel has none of them any more, whoever else kept them: a filter, a pin, another process.
    pub fn are_gone(&self) -> Result<()> {
        let mut left = Vec::new();
        let gone = eventually(PATIENCE, "the kernel has freed what dtm had", || {
            // What vanishes while it is asked about is gone.
            let programs = loaded_programs()
                .filter_map(Result::ok)
                .map(|program| program.id());
            let links = loaded_links().filter_map(Result::ok).map(|link| link.id());
            let maps = loaded_maps().filter_map(Result::ok).map(|map| map.id());
            left = programs
                .filter(|id| self.programs.contains(id))
                .map(|id| format!("program {id}"))
                .chain(
                    links
                        .filter(|id| self.links.contains(id))
                        .map(|id| format!("link {id}")),
                )
                .chain(maps.filter_map(|id| Some(format!("map {}", self.maps.get(&id)?))))
                .collect();
            Ok(left.is_empty().then_some(()))
        });
        gone.with_context(|| format!("left: {left:?}"))
    }

    /// Opens one of the maps, by its name.
    pub fn map(&self, name: &str) -> Result<MapData> {
        let found = self.maps.iter().find(|(_id, known)| *known == name);
        let (id, _name) = found.with_context(|| format!("dtm has no map {name} among {:?}", self.maps))?;
        MapData::from_id(*id).with_context(|| format!("open the map {name}"))
    }
}
