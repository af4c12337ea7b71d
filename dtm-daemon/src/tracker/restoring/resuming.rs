//! What is still to do after a takeover: attach what is not, give what is attached this dtm's programs, and let go of what
//! was left.

use std::{path::PathBuf, time::Instant};

use dtm_common::index::InterfaceKey;

use crate::{
    bpf::Mode,
    tracker::{
        Tracker,
        attaching::AttachJob,
        groups::GroupJob,
        interfaces::{AttachmentState, DEVICES, GROUPS, Interface},
        slots::REST,
        spares::Kind,
    },
};

impl Tracker {
    /// Has everything that was taken over attached, and by this dtm's programs; of one namespace, or of all that are no
    /// namespace's.
    pub(in crate::tracker) fn resume(&mut self, netns: u32) {
        let is_due = |interface: &&Interface| {
            interface.generation.key.netns == netns && interface.is_restored && self.has_to_resume(interface)
        };
        let due = self.interfaces.values().filter(is_due);
        for key in due.map(|interface| interface.generation.key).collect::<Vec<_>>() {
            self.resume_one(key);
        }
    }

    fn has_to_resume(&self, interface: &Interface) -> bool {
        match interface.attachment {
            AttachmentState::Attaching => true,
            AttachmentState::Attached(_) => interface.program != self.kernel.program,
            AttachmentState::Failed { .. } => false,
        }
    }

    fn resume_one(&mut self, key: InterfaceKey) {
        let (_here, inside) = self.devices.place(key);
        let Some(interface) = self.interfaces.get_mut(&key) else {
            return;
        };
        let generation = interface.generation;
        let path = PathBuf::from(&*interface.link.name);
        let state = std::mem::replace(&mut interface.attachment, AttachmentState::Attaching);
        match (state, key.netns) {
            (AttachmentState::Attached(attachment), GROUPS) => {
                self.renew_links(Kind::Group, generation, attachment);
            }
            (AttachmentState::Attached(attachment), DEVICES) => match inside {
                Some(inside) if attachment.mode() == Mode::Clsact => {
                    self.devices.renew(generation, attachment, inside);
                }
                _ => self.renew_links(Kind::Device, generation, attachment),
            },
            (AttachmentState::Attached(attachment), netns) => {
                self.order(
                    netns,
                    AttachJob::Renew {
                        generation,
                        attachment,
                    },
                );
            }
            (_, GROUPS) => self.groups.order(GroupJob::Attach {
                generation,
                path,
                programs: None,
            }),
            // One that is still on its way is attached to where it arrives.
            (_, DEVICES) => match inside {
                Some(inside) => self.devices.attach_again(generation, inside),
                None => return,
            },
            (_, netns) => self.order(
                netns,
                AttachJob::Attach {
                    generation,
                    bulk: true,
                },
            ),
        }
        self.await_attachment(key);
    }

    /// Lets the maps of an earlier dtm go once nothing counts into them any more.
    pub(in crate::tracker) fn leave_former(&mut self, now: Instant) {
        if self.former.is_none() {
            return;
        }
        // A program run may have begun before the links had other programs.
        let is_over = |since: Instant| now.saturating_duration_since(since) >= REST;
        let program = self.kernel.program;
        let has_counted =
            |interface: &Interface| interface.program == program && interface.renewed.is_some_and(is_over);
        self.take_from_former(&has_counted);
        let is_needed = |interface: &Interface| {
            interface.former.is_some() && !matches!(interface.attachment, AttachmentState::Failed { .. })
        };
        if self.interfaces.values().any(is_needed) {
            return;
        }
        // What cannot be attached to keeps what it had.
        self.take_from_former(&|_interface| true);
        self.take_former_flows(now);
        // The journal says so before the maps go.
        let former = self.former.take();
        self.unrecorded.rest = true;
        self.record();
        if let Some(former) = former {
            match former.pins.remove() {
                Ok(removed) => tracing::info!(
                    layout = former.layout(),
                    maps = removed.maps,
                    links = removed.links,
                    "nothing counts into an earlier dtm's maps any more, they are removed"
                ),
                Err(error) => tracing::warn!(%error, "cannot remove an earlier dtm's maps"),
            }
        }
    }

    /// Has interfaces keep by themselves what an earlier dtm's maps have of them.
    fn take_from_former(&mut self, is_wanted: &dyn Fn(&Interface) -> bool) {
        let is_due = |interface: &&Interface| interface.former.is_some() && is_wanted(interface);
        let due = self.interfaces.values().filter(is_due);
        for key in due.map(|interface| interface.generation.key).collect::<Vec<_>>() {
            if let (Some(interface), Some(former)) = (self.interfaces.get_mut(&key), &self.former)
                && let Some(slot) = interface.former.take()
            {
                interface.before += former.read(slot);
            }
        }
    }

    /// Forgets what was taken over in namespaces that are gone, or whose numbers are others' by now.
    pub(in crate::tracker) fn leave_stale(&mut self, netns: u32) {
        let stale = self.interfaces.keys().filter(|key| key.netns == netns);
        for key in stale.copied().collect::<Vec<_>>() {
            self.link_removed(netns, key.ifindex, None);
        }
    }
}
