//! What the kernel side is told at a takeover: whose everything is, and what was counted in other maps.

use std::collections::HashMap;

use dtm_common::drops::{Address, DropKey, DropTally, OWNER_NONE};

use super::moves::Moves;
use crate::tracker::{Tracker, interfaces::Role};

impl Tracker {
    /// Tells the kernel side whose everything is, and forgets whatever else it was told.
    pub(super) fn restore_owners(&mut self) {
        let (mut namespaces, mut addresses) = (HashMap::new(), HashMap::<Address, Option<u32>>::new());
        let mut owners = Vec::new();
        for interface in self.interfaces.values() {
            let owner = match &interface.role {
                Role::Pending { .. } => interface.pending_owner(),
                Role::Infrastructure { .. } | Role::Bridge { .. } => OWNER_NONE,
                Role::Container(named) => {
                    let Some(tracked) = self.containers.get(&named.container) else {
                        continue;
                    };
                    namespaces.extend(named.netns_inode.map(|inode| (inode, tracked.number)));
                    for address in &named.addresses {
                        addresses.insert(*address, self.addresses.add(*address, tracked.number));
                    }
                    tracked.number
                }
            };
            owners.push((interface.slot(), owner));
        }
        for (slot, owner) in owners {
            let result = self.kernel.owners.set_slot(slot, owner);
            self.check_map("owners", result);
        }
        let known_namespaces = self.kernel.owners.all_netns();
        let known_addresses = self.kernel.owners.all_addresses();
        for inode in known_namespaces
            .into_iter()
            .filter(|inode| !namespaces.contains_key(inode))
        {
            let result = self.kernel.owners.set_netns(inode, None);
            self.check_map("netns_owners", result);
        }
        for (inode, number) in namespaces {
            let result = self.kernel.owners.set_netns(inode, Some(number));
            self.check_map("netns_owners", result);
        }
        let gone = known_addresses
            .into_iter()
            .filter(|address| !addresses.contains_key(address));
        let gone: Vec<_> = gone.map(|address| (address, None)).collect();
        for (address, owner) in addresses.into_iter().chain(gone) {
            let result = self.kernel.owners.set_address(address, owner);
            self.check_map("address_owners", result);
        }
        self.restore_group_owners();
    }

    /// Takes in drops that were counted in another map.
    pub(super) fn move_drops(&mut self, drops: Vec<(DropKey, DropTally)>, moves: &Moves) {
        let Some(map) = &mut self.kernel.drops else {
            return;
        };
        let mut failed = None;
        for (key, tally) in drops {
            let owner = moves.owner(key.owner);
            failed = map.add(DropKey { owner, ..key }, tally).err().or(failed);
        }
        if let Some(error) = failed {
            self.count_map_error("drops", &error);
        }
    }
}
