//! Interfaces of Docker's own machinery: sandboxes that belong to no container.
//!
//! They count for sums of their network, beside its containers' and never in them: sandboxes come and go, and have no
//! names that anybody knows.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use dtm_common::{
    drops::{OWNER_NONE, OWNER_PENDING},
    index::InterfaceKey,
};

use super::{Tracker, interfaces::Role, nameless::Orphan, networks::Part};

/// What a sandbox that belongs to no container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Infrastructure {
    /// A step of a `BuildKit` build in the engine.
    Build,
    /// Swarm's routing mesh: what comes to published ports of the host goes through it.
    Ingress,
    /// A load balancer of Swarm's: what goes to the virtual addresses of services on an overlay network goes through it.
    LoadBalancer,
}

impl Infrastructure {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Build, Self::Ingress, Self::LoadBalancer];

    /// The `kind` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Ingress => "ingress",
            Self::LoadBalancer => "load_balancer",
        }
    }

    /// The name of the network on whose bridge Docker puts it, which nobody can change. Its sums are there before it is.
    /// None where it is on any overlay network with services.
    pub(crate) fn home(self) -> Option<&'static str> {
        match self {
            Self::Build => Some("bridge"),
            Self::Ingress => Some("docker_gwbridge"),
            Self::LoadBalancer => None,
        }
    }
}

impl Tracker {
    /// Makes an interface count for the machinery of `network`; what it counted since the attach goes along. What is
    /// dropped at it is nobody's.
    pub(super) fn begin_infrastructure(
        &mut self,
        key: InterfaceKey,
        kind: Infrastructure,
        network: Arc<str>,
    ) {
        let Some(mut interface) = self.interfaces.remove(&key) else {
            return;
        };
        self.settle_given_up(&mut interface);
        tracing::debug!(kind = kind.as_str(), host_end = &*interface.link.name, "named");
        let slot = interface.slot();
        interface.role = Role::Infrastructure { kind, network };
        self.interfaces.insert(key, interface);
        self.begin_site(key);
        let result = self.kernel.owners.set_slot(slot, OWNER_NONE);
        self.check_map("owners", result);
        for drops in self.fold_drops(&[OWNER_PENDING | slot].into()).values() {
            self.forget_drops(drops, true);
        }
    }

    /// As [`Tracker::begin_infrastructure`], of an interface that was gone before.
    pub(super) fn bury_infrastructure(&mut self, orphan: &Orphan, kind: Infrastructure, network: &Arc<str>) {
        tracing::debug!(
            kind = kind.as_str(),
            host_end = &*orphan.link.name,
            "named after its end"
        );
        self.networks
            .add_past(network, &orphan.traffic, Part::Infrastructure(kind));
        self.end_slot(orphan.slot, None, Instant::now());
    }
}
