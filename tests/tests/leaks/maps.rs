//! What is in the kernel side's maps, read past dtm.

use std::collections::BTreeSet;

use anyhow::Result;
use aya::maps::{Array, HashMap, Map, PerCpuHashMap};
use dtm_tests::objects::Objects;

use crate::process::Kinds;

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
