//! What the kernel side knows of whose everything is: slots, network namespaces, addresses and control groups.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use dtm_common::drops::{ADDRESSES_ENTRIES, Address, GROUPS_ENTRIES, NETNS_ENTRIES};

use super::{
    MapUse,
    kernel::{removed, take},
};

/// Whose drops, and what else happens there, are.
pub struct Owners {
    slots: Array<MapData, u32>,
    netns: Owned<u32>,
    addresses: Owned<Address>,
    groups: Owned<u64>,
}

/// A map of owners, and how many entries it has.
struct Owned<K> {
    map: HashMap<MapData, K, u32>,
    entries: u64,
}

impl Owners {
    /// With what an earlier process has entered.
    pub(super) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            slots: take(ebpf, "OWNERS")?.try_into()?,
            netns: Owned::new(take(ebpf, "NETNS_OWNERS")?.try_into()?),
            addresses: Owned::new(take(ebpf, "ADDRESS_OWNERS")?.try_into()?),
            groups: Owned::new(take(ebpf, "GROUP_OWNERS")?.try_into()?),
        })
    }

    /// Whose the drops at a slot's interface are.
    pub fn set_slot(&mut self, slot: u32, owner: u32) -> Result<(), MapError> {
        self.slots.set(slot, owner, 0)
    }

    /// Whose a network namespace is; `None` forgets it.
    pub fn set_netns(&mut self, inum: u32, owner: Option<u32>) -> Result<(), MapError> {
        self.netns.set(inum, owner)
    }

    /// Whose the drops of packets from or to an address are; `None` forgets it.
    pub fn set_address(&mut self, address: Address, owner: Option<u32>) -> Result<(), MapError> {
        self.addresses.set(address, owner)
    }

    /// Whose the sockets of a control group are on the host's network, and of the groups below it; `None` forgets it.
    pub fn set_group(&mut self, group: u64, owner: Option<u32>) -> Result<(), MapError> {
        self.groups.set(group, owner)
    }

    /// The namespaces that stand for somebody.
    pub fn all_netns(&self) -> Vec<u32> {
        self.netns.keys()
    }

    /// The same of addresses.
    pub fn all_addresses(&self) -> Vec<Address> {
        self.addresses.keys()
    }

    /// The same of control groups.
    pub fn all_groups(&self) -> Vec<u64> {
        self.groups.keys()
    }

    /// How full the maps are.
    pub(super) fn map_use(&self) -> [MapUse; 3] {
        [
            ("netns_owners", self.netns.entries, NETNS_ENTRIES.into()),
            ("address_owners", self.addresses.entries, ADDRESSES_ENTRIES.into()),
            ("group_owners", self.groups.entries, GROUPS_ENTRIES.into()),
        ]
    }
}

impl<K: aya::Pod> Owned<K> {
    fn new(map: HashMap<MapData, K, u32>) -> Self {
        let entries = map.keys().count() as u64;
        Self { map, entries }
    }

    fn keys(&self) -> Vec<K> {
        self.map.keys().flatten().collect()
    }

    /// Writes or removes one owner and keeps count of the entries.
    fn set(&mut self, key: K, owner: Option<u32>) -> Result<(), MapError> {
        let Some(owner) = owner else {
            if removed(self.map.remove(&key))? {
                self.entries -= 1;
            }
            return Ok(());
        };
        let is_new = matches!(self.map.get(&key, 0), Err(MapError::KeyNotFound));
        self.map.insert(key, owner, 0)?;
        self.entries += u64::from(is_new);
        Ok(())
    }
}
