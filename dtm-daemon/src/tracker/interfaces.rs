//! The interfaces that are attached to, or about to be.

use std::{sync::Arc, time::Instant};

use dtm_common::drops::{Address, OWNER_PENDING};

use super::{
    Infrastructure, Traffic, attaching::Generation, containers::SeriesKey, device_drops::DeviceReading,
    naming::Identity, networks::Part,
};
use crate::{
    bpf::{Attachment, CounterBanks, Former, Mode},
    docker::ContainerId,
    net::Link,
};

/// dtm's own number for the network namespace it runs in.
pub(crate) const OWN_NETNS: u32 = 0;

/// Stands in the place of a namespace's number for containers' own devices, which are in one place today and in another
/// tomorrow: dtm numbers them itself.
pub(crate) const DEVICES: u32 = u32::MAX - 1;

/// The same for control groups.
pub(crate) const GROUPS: u32 = u32::MAX;

/// One life of an interface, or of a control group in the place of one: it has a slot from its first sight to its end.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) link: Link,
    /// The watched namespace that [`Link::peer_nsid`] is an id of.
    pub(crate) seen_from: u32,
    /// Name of the bridge it is a port of, or last was; none in another namespace than dtm's own.
    pub(crate) bridge: Option<Arc<str>>,
    pub(crate) generation: Generation,
    pub(crate) attachment: AttachmentState,
    /// Whose program runs before dtm's there.
    pub(crate) preceded: Option<Arc<str>>,
    /// Somebody took a program off that is not back yet.
    pub(crate) mending: bool,
    /// Why attaching was refused when that was last said; it is not said again for every attempt.
    pub(crate) refused: Option<&'static str>,
    pub(crate) role: Role,
    pub(crate) since: Instant,
    /// What was counted for it elsewhere than in its slot, before it had that.
    pub(crate) before: Traffic,
    /// Its slot among the counters of an earlier dtm, whose maps were others, as long as these are of use.
    pub(crate) former: Option<u32>,
    /// What had been counted when its traffic began to be somebody else's: that stays with whoever had it.
    pub(crate) base: Traffic,
    /// What its device counts as thrown away, where that was looked at.
    pub(crate) device: Option<DeviceReading>,
    /// What runs there, see [`Kernel::program`](crate::bpf::Kernel::program), and since when this process knows.
    pub(crate) program: u64,
    pub(crate) renewed: Option<Instant>,
    /// It was taken over, and nobody has found yet that something is missing of it.
    pub(crate) is_restored: bool,
}

/// How far the attachment is.
#[derive(Debug)]
pub(crate) enum AttachmentState {
    /// The job is under way.
    Attaching,
    /// Counting.
    Attached(Attachment),
    /// The kernel refused; tried again from time to time, and when somebody changes what is there.
    Failed {
        /// When.
        at: Instant,
    },
}

/// What the interface is to Docker.
#[derive(Debug)]
pub(crate) enum Role {
    /// The host end of a pair nobody has named yet.
    Pending {
        /// Whose it is, once that is known; Docker may not have told about them yet.
        identity: Option<Identity>,
        /// When the resolver was last asked.
        asked: Option<Instant>,
        /// Whether it has waited too long: what it moves is shown as nobody's.
        given_up: bool,
    },
    /// The host end of a container's interface.
    Container(Named),
    /// The host end of a sandbox that belongs to no container.
    Infrastructure {
        /// What it is for.
        kind: Infrastructure,
        /// The network's id.
        network: Arc<str>,
    },
    /// The bridge of a network.
    Bridge {
        /// The network's id.
        network: Arc<str>,
    },
}

/// Whose interface it is: chosen once, at first sight, and kept whatever the container does to it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) container: ContainerId,
    /// The network's id and name.
    pub(crate) network: (Arc<str>, Arc<str>),
    /// The interface's name inside the container.
    pub(crate) interface: Arc<str>,
    /// Inode of the namespace it is in, where that is the container's.
    pub(crate) netns_inode: Option<u32>,
    /// Addresses that stand for the container because of it.
    pub(crate) addresses: Vec<Address>,
}

impl Role {
    /// Of what nobody has named yet.
    pub(crate) fn unknown() -> Self {
        Self::Pending {
            identity: None,
            asked: None,
            given_up: false,
        }
    }

    /// Of what is known to be somebody's, before Docker has told who that is.
    pub(crate) fn known(identity: Identity) -> Self {
        Self::Pending {
            identity: Some(identity),
            asked: None,
            given_up: false,
        }
    }

    /// Whose interface it is, where it is a container's.
    pub(crate) fn named(&self) -> Option<&Named> {
        match self {
            Self::Container(named) => Some(named),
            _ => None,
        }
    }

    /// Id of the network in whose sums it is, and in which of them.
    pub(crate) fn part(&self) -> Option<(&Arc<str>, Part)> {
        match self {
            Self::Pending { .. } => None,
            Self::Container(named) => Some((&named.network.0, Part::Containers)),
            Self::Infrastructure { kind, network } => Some((network, Part::Infrastructure(*kind))),
            Self::Bridge { network } => Some((network, Part::Bridge)),
        }
    }
}

impl Named {
    /// Which of its container's series it counts for.
    pub(crate) fn series_key(&self) -> SeriesKey {
        (Arc::clone(&self.network.1), Arc::clone(&self.interface))
    }
}

impl Interface {
    /// One that is about to be attached to.
    pub(crate) fn new(link: Link, generation: Generation, role: Role, now: Instant) -> Self {
        Self {
            link,
            seen_from: generation.key.netns,
            bridge: None,
            generation,
            attachment: AttachmentState::Attaching,
            preceded: None,
            mending: false,
            refused: None,
            role,
            since: now,
            before: Traffic::default(),
            former: None,
            base: Traffic::default(),
            device: None,
            program: 0,
            renewed: None,
            is_restored: false,
        }
    }

    /// Whether its series may begin. What stands for a container's own device or group is only tried: the series begins
    /// when it counts.
    pub(crate) fn can_be_named(&self) -> bool {
        let is_tried = matches!(self.generation.key.netns, DEVICES | GROUPS);
        !is_tried || matches!(self.attachment, AttachmentState::Attached(_))
    }

    /// The slot that counts for it.
    pub(crate) fn slot(&self) -> u32 {
        self.generation.slot
    }

    /// All that was counted for it: by these counters, by those of an earlier dtm, and before.
    pub(crate) fn counted(&self, counters: &CounterBanks, former: Option<&Former>) -> Traffic {
        let mut all = self.before;
        all += counters.read(self.slot());
        if let (Some(slot), Some(former)) = (self.former, former) {
            all += former.read(slot);
        }
        all += Traffic {
            dropped: self.device.map(DeviceReading::grown),
            ..Traffic::default()
        };
        all
    }

    /// What it moved for whomever it counts for now; `counted` is all that was counted for it.
    pub(crate) fn moved(&self, counted: &Traffic) -> Traffic {
        *counted - self.base
    }

    /// The owner of its drops until it has a name.
    pub(crate) fn pending_owner(&self) -> u32 {
        OWNER_PENDING | self.slot()
    }

    /// The labels of `dtm_interfaces`.
    pub(crate) fn state(&self) -> (&'static str, &'static str) {
        let mode = match &self.attachment {
            AttachmentState::Attached(attachment) => attachment.mode().as_str(),
            AttachmentState::Attaching | AttachmentState::Failed { .. } => NO_MODE,
        };
        let state = match (&self.attachment, &self.role) {
            (AttachmentState::Failed { .. }, _) => "failed",
            (_, Role::Pending { .. }) => "pending",
            (_, Role::Container(_)) => "named",
            (_, Role::Infrastructure { .. }) => "infrastructure",
            (_, Role::Bridge { .. }) => "bridge",
        };
        (state, mode)
    }
}

/// The `mode` label of an interface nothing is attached to.
const NO_MODE: &str = "none";

/// The labels of an interface that has no slot.
pub(crate) const REFUSED: (&str, &str) = ("refused", NO_MODE);

/// Every combination of labels of `dtm_interfaces` that can occur.
pub(crate) fn states() -> impl Iterator<Item = (&'static str, &'static str)> {
    let attached = [Mode::Tcx.as_str(), Mode::Clsact.as_str(), NO_MODE];
    let states = ["pending", "named", "infrastructure", "bridge"].into_iter();
    let groups = ["pending", "named"].map(|state| (state, Mode::Cgroup.as_str()));
    states
        .flat_map(move |state| attached.map(|mode| (state, mode)))
        .chain(groups)
        .chain([("failed", NO_MODE), REFUSED])
}
