//! Whose the sockets of a control group are on the host's network, for what happens to them.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use dtm_common::index::InterfaceKey;

use crate::tracker::{
    Tracker,
    interfaces::{GROUPS, Role},
};

impl Tracker {
    /// The kernel's number for a control group; none where it is gone already.
    pub(in crate::tracker) fn group_id(&self, path: &Path) -> Option<u64> {
        let hierarchy = self.groups.hierarchy.as_ref();
        let group = hierarchy
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .and_then(|hierarchy| hierarchy.group(path))
            .and_then(|group| File::from(group).metadata());
        match group {
            Ok(metadata) => Some(metadata.ino()),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "cannot look at a group");
                None
            }
        }
    }

    /// Has the kernel side know whose a container's control group is: a number, or its slot as long as it has no name.
    pub(in crate::tracker) fn own_group(&mut self, key: InterfaceKey, owner: u32) {
        if let Some(group) = self.groups.ids.get(&key) {
            let result = self.kernel.owners.set_group(*group, Some(owner));
            self.check_map("group_owners", result);
        }
    }

    /// Has the kernel side forget whose a control group was.
    pub(in crate::tracker) fn disown_group(&mut self, key: InterfaceKey) {
        if let Some(group) = self.groups.ids.remove(&key) {
            let result = self.kernel.owners.set_group(group, None);
            self.check_map("group_owners", result);
        }
    }

    /// Tells the kernel side whose the groups are that were taken over, and forgets the others.
    pub(in crate::tracker) fn restore_group_owners(&mut self) {
        let mut owners = HashMap::new();
        for (key, interface) in self.interfaces.iter().filter(|(key, _)| key.netns == GROUPS) {
            let owner = match &interface.role {
                Role::Container(named) => self
                    .containers
                    .get(&named.container)
                    .map(|tracked| tracked.number),
                _ => Some(interface.pending_owner()),
            };
            let path = PathBuf::from(&*interface.link.name);
            if let Some((id, owner)) = self.group_id(&path).zip(owner) {
                owners.insert(id, (*key, owner));
            }
        }
        let known = self.kernel.owners.all_groups().into_iter();
        for gone in known.filter(|id| !owners.contains_key(id)) {
            let result = self.kernel.owners.set_group(gone, None);
            self.check_map("group_owners", result);
        }
        for (id, (key, owner)) in owners {
            self.groups.ids.insert(key, id);
            self.own_group(key, owner);
        }
    }
}
