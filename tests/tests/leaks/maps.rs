//! The kernel's view of programs, links and maps, read past dtm: by id, with bpf(2).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{Array, HashMap, Map, MapData, PerCpuHashMap, loaded_maps},
    programs::{loaded_links, loaded_programs},
};

use dtm_tests::scene::PATIENCE;
use xtask::host::eventually;

use crate::process::{Kinds, Process};

/// What the kernel side's maps hold. Their layouts are those of `dtm-common`, read as plain numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entries {
    /// Entries in use by map.
    pub(crate) in_use: Kinds,
    /// Owners of drops that no interface, namespace or address stands for any more.
    pub(crate) drops_of_the_dead: BTreeSet<u32>,
    /// All entries of the map of drops. Those of nobody come and go with the whole machine's.
    pub(crate) drops: usize,
}

/// The programs, links and maps a process has open, by id. The kernel uses no id twice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
    maps: BTreeMap<u32, String>,
}

impl Objects {
    /// Those of `process`.
    pub(crate) fn of(process: Process) -> Result<Self> {
        let mut objects = Self::default();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", process.0)).context("list descriptors")? {
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
    pub(crate) fn kinds(&self) -> Kinds {
        let mut kinds = Kinds::from([
            ("program".to_owned(), self.programs.len()),
            ("link".to_owned(), self.links.len()),
        ]);
        for name in self.maps.values() {
            *kinds.entry(format!("map {name}")).or_default() += 1;
        }
        kinds
    }

    /// Waits until the kernel has none of them any more, whoever else kept them: a filter, a pin, another process.
    pub(crate) fn are_gone(&self) -> Result<()> {
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

    fn map(&self, name: &str) -> Result<MapData> {
        let found = self.maps.iter().find(|(_id, known)| *known == name);
        let (id, _name) = found.with_context(|| format!("dtm has no map {name} among {:?}", self.maps))?;
        MapData::from_id(*id).with_context(|| format!("open the map {name}"))
    }
}

/// Reads the maps among these.
pub(crate) fn entries(objects: &Objects) -> Result<Entries> {
    let map = |name| objects.map(name);
    let index: Array<_, [u32; 3]> = Map::Array(map("INDEX")?).try_into()?;
    let owners: Array<_, u32> = Map::Array(map("OWNERS")?).try_into()?;
    let overflow: HashMap<_, [u32; 2], u32> = Map::HashMap(map("INDEX_OVERFLOW")?).try_into()?;
    let namespaces: HashMap<_, u32, u32> = Map::HashMap(map("NETNS_OWNERS")?).try_into()?;
    let addresses: HashMap<_, [u8; 16], u32> = Map::HashMap(map("ADDRESS_OWNERS")?).try_into()?;
    let drops: PerCpuHashMap<_, [u32; 3], [u64; 2]> = Map::PerCpuHashMap(map("DROPS")?).try_into()?;
    // An entry of the index is (namespace, interface, slot); interface 0 is none.
    let indexed = index
        .iter()
        .filter_map(|entry| entry.map(|[_, ifindex, _]| ifindex != 0).ok());
    let owned: Vec<u32> = owners.iter().collect::<Result<_, _>>()?;
    let owned: BTreeSet<u32> = owned.into_iter().filter(|owner| *owner != 0).collect();
    let in_use = Kinds::from([
        ("INDEX".to_owned(), indexed.filter(|in_use| *in_use).count()),
        ("INDEX_OVERFLOW".to_owned(), overflow.keys().count()),
        ("OWNERS".to_owned(), owned.len()),
        ("NETNS_OWNERS".to_owned(), namespaces.keys().count()),
        ("ADDRESS_OWNERS".to_owned(), addresses.keys().count()),
    ]);
    let keys: Vec<[u32; 3]> = drops.keys().collect::<Result<_, _>>()?;
    // Owner 0 is nobody.
    let of_somebody = keys.iter().map(|[owner, ..]| *owner).filter(|owner| *owner != 0);
    Ok(Entries {
        in_use,
        drops_of_the_dead: of_somebody.filter(|owner| !owned.contains(owner)).collect(),
        drops: keys.len(),
    })
}
