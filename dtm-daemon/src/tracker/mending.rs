//! Looking after what is attached: programs that somebody else took off are put back, and those that somebody else's run
//! before are shown.
//!
//! The kernel tells of filters and qdiscs that come and go, and the interface is looked at then. It tells nothing of TCX
//! programs, for which all interfaces are looked at from time to time, at a microsecond each. Looking is the attaching
//! thread's: it waits for RTNL.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use dtm_common::index::InterfaceKey;
use tokio::time::Instant;

use super::{
    Tracker,
    attaching::{AttachJob, Look, Looked},
    interfaces::{AttachmentState, Interface},
};
use crate::bpf::Standing;

/// How long after the first hint an interface is looked at: whoever changes filters changes several.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// How often TCX programs are looked for.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// What there is to look at.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Interfaces whose filters may have changed.
    suspects: HashSet<InterfaceKey>,
    /// When to look at them.
    due: Option<Instant>,
    /// Namespaces whose threads are still busy with the last job: more would pile up.
    under_way: HashSet<u32>,
}

impl Looks {
    /// Waits until there is something to look at. Cancel safe.
    pub(super) async fn due(due: Option<Instant>) {
        match due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// When [`Tracker::look_at_suspects`] has something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.filter(|_due| self.under_way.is_empty())
    }

    /// Notes that the thread of this namespace has done its job, or has ended.
    pub(super) fn done(&mut self, netns: u32) {
        self.under_way.remove(&netns);
    }
}

impl Tracker {
    /// Notes that somebody may have changed what runs at an interface.
    pub(super) fn suspect(&mut self, key: InterfaceKey) {
        if self.interfaces.contains_key(&key) {
            self.looks.suspects.insert(key);
            self.looks.due.get_or_insert_with(|| Instant::now() + DEBOUNCE);
        }
    }

    /// Looks at the filters of everything, for nobody knows what was missed.
    pub(super) fn suspect_all(&mut self) {
        let all: Vec<_> = self.interfaces.keys().copied().collect();
        for key in all {
            self.suspect(key);
        }
    }

    /// Has the thread look at what is suspected, and tries again where nothing could be attached.
    pub(super) fn look_at_suspects(&mut self) {
        self.looks.due = None;
        let mut looks = Vec::new();
        for key in std::mem::take(&mut self.looks.suspects) {
            let Some(interface) = self.interfaces.get_mut(&key) else {
                continue;
            };
            if matches!(interface.attachment, AttachmentState::Failed { .. }) {
                // What was in the way may be gone.
                interface.attachment = AttachmentState::Attaching;
                let generation = interface.generation;
                self.order(
                    key.netns,
                    AttachJob::Attach {
                        generation,
                        bulk: false,
                    },
                );
            } else {
                looks.extend(look(interface, true));
            }
        }
        self.look_at(looks);
    }

    /// Has the thread look for TCX programs everywhere.
    pub(super) fn look_around(&mut self) {
        if self.looks.under_way.is_empty() {
            let interfaces = self.interfaces.values();
            self.look_at(
                interfaces
                    .filter_map(|interface| look(interface, false))
                    .collect(),
            );
        }
    }

    /// Has the threads look, each in its own namespace.
    fn look_at(&mut self, looks: Vec<Look>) {
        let mut by_namespace: HashMap<u32, Vec<Look>> = HashMap::new();
        for look in looks {
            by_namespace
                .entry(look.generation.key.netns)
                .or_default()
                .push(look);
        }
        for (netns, looks) in by_namespace {
            if let Some(namespace) = self.namespaces.get(&netns) {
                self.looks.under_way.insert(netns);
                namespace.order(AttachJob::Look(looks));
            }
        }
    }

    /// Takes in how an attachment stands.
    pub(super) fn on_looked(&mut self, looked: Looked) {
        let Looked {
            generation,
            place,
            standing,
        } = looked;
        let Some(interface) = self.interfaces.get_mut(&generation.key) else {
            return;
        };
        // Since then it may have been another's turn, or mended.
        let is_current = interface.generation == generation
            && matches!(&interface.attachment, AttachmentState::Attached(attachment) if attachment.place() == Some(place));
        if !is_current {
            return;
        }
        let name = Arc::clone(&interface.link.name);
        match standing {
            Standing::First => {
                if interface.preceded.take().is_some() {
                    tracing::info!(interface = &*name, "nobody's program runs before dtm's any more");
                }
            }
            Standing::Preceded(by) => {
                if interface.preceded.is_none() {
                    tracing::warn!(
                        interface = &*name,
                        by = &*by,
                        "somebody else's program runs before dtm's: what it ends there is not counted"
                    );
                }
                interface.preceded = Some(by);
            }
            Standing::Missing => {
                interface.mending = true;
                interface.preceded = None;
                if std::mem::take(&mut interface.is_restored) {
                    self.takeover.detached += 1;
                    self.takeover.attached = self.takeover.attached.saturating_sub(1);
                }
                let state = std::mem::replace(&mut interface.attachment, AttachmentState::Attaching);
                if let AttachmentState::Attached(rest) = state {
                    self.order(generation.key.netns, AttachJob::Mend { generation, rest });
                }
            }
        }
    }

    /// Tries again where something could not be attached.
    pub(super) fn retry(&mut self) -> anyhow::Result<()> {
        let failed = |interface: &Interface| matches!(interface.attachment, AttachmentState::Failed { .. });
        if std::mem::take(&mut self.unindexed) || self.interfaces.values().any(failed) {
            self.resynchronise_all()?;
        }
        Ok(())
    }
}

fn look(interface: &Interface, thorough: bool) -> Option<Look> {
    let AttachmentState::Attached(attachment) = &interface.attachment else {
        return None;
    };
    let known = match &interface.preceded {
        Some(by) => Standing::Preceded(Arc::clone(by)),
        None => Standing::First,
    };
    Some(Look {
        generation: interface.generation,
        place: attachment.place()?,
        thorough: thorough || known != Standing::First,
        known,
    })
}
