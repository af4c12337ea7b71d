//! Containers on macvlan and ipvlan networks: the device is the container's own, there is no host end.
//!
//! The engine makes such a device in the host's namespace and moves it into the container's. A TCX link moves along, so
//! it is attached to at its birth, by programs that count into its slot wherever it is. What dtm has not seen being born
//! is looked for inside the containers that Docker says are on such a network, by a thread made for it: no socket and no
//! thread stays there, for they would keep the namespace, and the device with its addresses, from going.

mod threads;

use std::{
    collections::{HashMap, HashSet},
    thread,
    time::{Duration, Instant},
};

use dtm_common::index::InterfaceKey;

pub(super) use self::threads::Inside;
pub(super) use self::threads::Means;
pub(crate) use self::threads::Surveyed;
use self::threads::{Birth, Place};
use super::{
    Tracker,
    attaching::Generation,
    interfaces::{AttachmentState, DEVICES, Interface, OWN_NETNS, Role},
    naming::{self, Identity},
    placing::has_own_devices,
    resolving::{ResolveJob, ResolveOrder},
    spares::Kind,
};
use crate::{
    bpf::{Attachment, tcx_is_supported},
    config::AttachMode,
    docker::ContainerId,
    net::{Link, MovedTo},
};

/// How long a device may stay in the host's namespace before it is none of Docker's.
const FOREIGN_AFTER: Duration = Duration::from_secs(10);

/// How long after a container was looked into it is looked into again, where that is still needed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long a device that has moved may go without a name before it is looked for inside of containers instead.
const NAMELESS_AFTER: Duration = Duration::from_secs(5);

/// All devices of containers' own.
pub(super) struct Devices {
    means: Means,
    /// Those that are still in the host's namespace, by their index there.
    births: HashMap<u32, InterfaceKey>,
    /// Devices in the host's namespace that nobody moved.
    foreign: HashSet<u32>,
    inside: HashMap<InterfaceKey, Inside>,
    /// When containers were last looked into.
    looked: HashMap<ContainerId, Instant>,
    under_way: bool,
    probing: bool,
    last: u32,
}

impl Devices {
    pub(super) fn new(means: Means) -> Self {
        Self {
            means,
            births: HashMap::new(),
            foreign: HashSet::new(),
            inside: HashMap::new(),
            looked: HashMap::new(),
            under_way: false,
            probing: false,
            last: 0,
        }
    }

    /// Goes on with what an earlier process has attached to: where each is.
    pub(super) fn restore(
        &mut self,
        devices: impl IntoIterator<Item = (InterfaceKey, Option<u32>, Option<Inside>)>,
    ) {
        for (key, here, inside) in devices {
            self.last = self.last.max(key.ifindex);
            self.births.extend(here.map(|ifindex| (ifindex, key)));
            self.inside.extend(inside.map(|inside| (key, inside)));
        }
    }

    /// Where a device is: its index, where it is in dtm's own namespace, or where it is inside of a container.
    pub(super) fn place(&self, key: InterfaceKey) -> (Option<u32>, Option<Inside>) {
        (self.index_here(key), self.inside.get(&key).copied())
    }

    /// Has filters of an earlier dtm inside of a container run this one's programs.
    pub(super) fn renew(&self, generation: Generation, attachment: Attachment, inside: Inside) {
        self.means.clone().renew(generation, attachment, inside);
    }

    /// Attaches once more to a device whose programs are gone.
    pub(super) fn attach_again(&self, generation: Generation, inside: Inside) {
        let birth = Birth {
            generation,
            programs: None,
        };
        self.means.clone().attach(birth, Place::Inside(inside));
    }

    /// Whether containers are being looked into.
    pub(super) fn are_looked_for(&self) -> bool {
        self.under_way
    }

    /// The index of a device, and its namespace's inode; none while it is still in dtm's own.
    pub(super) fn whereabouts(&self, key: InterfaceKey) -> Option<(Option<u64>, u32)> {
        if let Some(inside) = self.inside.get(&key) {
            return Some((Some(inside.inode), inside.ifindex));
        }
        self.index_here(key).map(|ifindex| (None, ifindex))
    }

    /// The index of a device that is still in dtm's own namespace.
    fn index_here(&self, key: InterfaceKey) -> Option<u32> {
        let mut births = self.births.iter();
        births
            .find(|(_ifindex, born)| **born == key)
            .map(|(ifindex, _born)| *ifindex)
    }

    /// Takes an attachment off; a filter is taken off where it is, if that is still there.
    pub(super) fn detach(
        &mut self,
        key: InterfaceKey,
        attachment: Attachment,
    ) -> Option<thread::JoinHandle<()>> {
        let inside = self.inside.remove(&key);
        self.means.clone().detach(attachment, inside)
    }
}

impl Tracker {
    /// Takes in a macvlan or ipvlan device in the host's namespace as it is now.
    pub(super) fn device_changed(&mut self, link: Link) {
        let ifindex = link.ifindex;
        if self.devices.foreign.contains(&ifindex) {
            return;
        }
        if let Some(key) = self.devices.births.get(&ifindex) {
            if let Some(interface) = self.interfaces.get_mut(key) {
                interface.link = link;
            }
            return;
        }
        // Without such a network it is somebody else's.
        if !self.has_device_networks() {
            return;
        }
        let Some(birth) = self.add_device(link, Role::unknown()) else {
            return;
        };
        self.devices.births.insert(ifindex, birth.generation.key);
        if self.devices.means.attach_mode != AttachMode::Clsact && tcx_is_supported() {
            self.devices.means.clone().attach(birth, Place::Here(ifindex));
        }
    }

    /// Takes in that a device has left the host's namespace.
    pub(super) fn device_removed(&mut self, ifindex: u32, moved_to: Option<MovedTo>) {
        self.devices.foreign.remove(&ifindex);
        let Some(key) = self.devices.births.remove(&ifindex) else {
            return;
        };
        match (self.interfaces.get_mut(&key), moved_to) {
            (Some(interface), Some(MovedTo { nsid, ifindex })) => {
                let Some(parent) = interface.link.peer else {
                    return;
                };
                if let Role::Pending { asked, .. } = &mut interface.role {
                    *asked = Some(Instant::now());
                }
                let job = ResolveJob {
                    generation: interface.generation,
                    seen_from: OWN_NETNS,
                    nsid,
                    peer: ifindex,
                    other_end: parent,
                    again: false,
                };
                self.order_resolve(ResolveOrder::Identify(job));
            }
            (_, _) => self.device_gone(key),
        }
    }

    /// Takes in where a device is: what could not be attached to before its move is attached to there.
    pub(super) fn device_resolved(&mut self, generation: Generation, ifindex: u32) {
        let Some(interface) = self.interfaces.get_mut(&generation.key) else {
            return;
        };
        let Role::Pending {
            identity:
                Some(Identity {
                    netns_inode: Some(inode),
                    process: Some(process),
                    ..
                }),
            ..
        } = &interface.role
        else {
            return;
        };
        let inside = Inside {
            process: *process,
            inode: u64::from(*inode),
            ifindex,
        };
        self.devices.inside.insert(generation.key, inside);
        let is_off = match interface.attachment {
            AttachmentState::Attached(_) => false,
            AttachmentState::Failed { .. } => true,
            // Nobody is at it.
            AttachmentState::Attaching => {
                self.devices.means.attach_mode == AttachMode::Clsact || !tcx_is_supported()
            }
        };
        if is_off {
            interface.attachment = AttachmentState::Attaching;
            let birth = Birth {
                generation,
                programs: self.spares.programs(Kind::Device, interface.slot()),
            };
            self.devices.means.clone().attach(birth, Place::Inside(inside));
        }
    }

    /// Looks at the devices from time to time: nobody tells when one goes in a container's namespace.
    pub(super) fn look_at_devices(&mut self, now: Instant) {
        let (mut gone, mut links) = (Vec::new(), Vec::new());
        let all = self.interfaces.values();
        for interface in all.filter(|interface| interface.generation.key.netns == DEVICES) {
            let key = interface.generation.key;
            let age = now.duration_since(interface.since);
            let is_nameless = matches!(interface.role, Role::Pending { .. });
            match (self.devices.index_here(key), &interface.attachment) {
                (Some(ifindex), _) if age >= FOREIGN_AFTER => {
                    self.devices.foreign.insert(ifindex);
                    gone.push(key);
                }
                (None, _) if is_nameless && self.docker.up == Some(true) && age >= NAMELESS_AFTER => {
                    gone.push(key);
                }
                (None, AttachmentState::Attached(Attachment::Tcx { transmit, .. })) => {
                    links.extend(transmit.probe().map(|probe| (key, probe)));
                }
                (None, AttachmentState::Attached(_)) => {
                    if let Role::Container(named) = &interface.role
                        && self
                            .containers
                            .get(&named.container)
                            .is_none_or(|tracked| !tracked.has_process())
                    {
                        gone.push(key);
                    }
                }
                (Some(_), _) | (None, AttachmentState::Attaching | AttachmentState::Failed { .. }) => {}
            }
        }
        for key in gone {
            self.devices.births.retain(|_ifindex, born| *born != key);
            self.device_gone(key);
        }
        if !links.is_empty() && !self.devices.probing {
            self.devices.probing = true;
            self.devices.means.clone().probe(links);
        }
        self.look_into_containers(now);
    }

    /// Takes in which devices are gone.
    pub(super) fn on_probed(&mut self, gone: Vec<InterfaceKey>) {
        self.devices.probing = false;
        for key in gone {
            self.device_gone(key);
        }
    }

    fn device_gone(&mut self, key: InterfaceKey) {
        if let Some(interface) = self.interfaces.remove(&key) {
            self.retire(interface);
        }
        self.devices.inside.remove(&key);
    }

    /// Looks for devices in the containers that should have one and of which none is known.
    pub(super) fn look_into_containers(&mut self, now: Instant) {
        let is_young = |interface: &Interface| {
            interface.generation.key.netns == DEVICES && matches!(interface.role, Role::Pending { .. })
        };
        if self.devices.under_way || !self.has_device_networks() {
            return;
        }
        // One that is still looking for its container may be what would be found.
        if self.interfaces.values().any(is_young) {
            return;
        }
        let devices = &mut self.devices;
        devices
            .looked
            .retain(|_id, looked| now.duration_since(*looked) < LOOK_AGAIN);
        let lacks = |tracked: &super::containers::Tracked| {
            tracked.container.endpoints.iter().any(|endpoint| {
                let network = self.networks.by_id().get(&endpoint.network_id);
                network.is_some_and(has_own_devices) && !tracked.is_counted_on(&endpoint.network)
            })
        };
        let due: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|tracked| tracked.has_process() && lacks(tracked))
            .map(|tracked| tracked.container.id.clone())
            .filter(|id| !devices.looked.contains_key(id))
            .collect();
        if due.is_empty() {
            return;
        }
        devices.looked.extend(due.iter().map(|id| (id.clone(), now)));
        devices.under_way = true;
        devices.means.clone().survey(due);
    }

    /// Takes in what was found in containers.
    pub(super) fn on_surveyed(&mut self, surveyed: Vec<Surveyed>) {
        self.devices.under_way = false;
        for Surveyed {
            container,
            process,
            inode,
            devices,
        } in surveyed
        {
            for (link, peer) in devices {
                let Some(tracked) = self.containers.get(&container) else {
                    continue;
                };
                let network = naming::network(&tracked.container, Some(&peer), self.networks.known());
                let is_wanted = network
                    .is_some_and(|network| has_own_devices(network) && !tracked.is_counted_on(&network.name));
                if !is_wanted {
                    continue;
                }
                let ifindex = link.ifindex;
                let identity = Identity {
                    // The kernel's own number is 32 bits wide.
                    netns_inode: Some(inode as u32),
                    process: Some(process),
                    containers: vec![container.clone()],
                    infrastructure: None,
                    peer: Some(peer),
                };
                let Some(birth) = self.add_device(link, Role::known(identity)) else {
                    continue;
                };
                let key = birth.generation.key;
                let inside = Inside {
                    process,
                    inode,
                    ifindex,
                };
                self.devices.inside.insert(key, inside);
                self.await_attachment(key);
                self.devices.means.clone().attach(birth, Place::Inside(inside));
            }
        }
        self.naming_due = true;
        self.note_readiness();
    }

    /// Whether there is a network on which containers have devices to themselves.
    pub(super) fn has_device_networks(&self) -> bool {
        self.networks.known().any(has_own_devices)
    }

    fn add_device(&mut self, link: Link, role: Role) -> Option<Birth> {
        let now = Instant::now();
        let (slot, programs) = self.take_spare(Kind::Device, now)?;
        self.devices.last += 1;
        let key = InterfaceKey {
            netns: DEVICES,
            ifindex: self.devices.last,
        };
        let generation = self.next_generation(key, slot);
        self.kernel.counters.clear(slot);
        tracing::debug!(
            interface = &*link.name,
            ifindex = link.ifindex,
            slot,
            "attaching to a device"
        );
        let interface = Interface::new(link, generation, role, now);
        let owner = interface.pending_owner();
        let result = self.kernel.owners.set_slot(slot, owner);
        self.check_map("owners", result);
        self.interfaces.insert(key, interface);
        self.record_birth(key);
        self.begin_site(key);
        Some(Birth { generation, programs })
    }
}
