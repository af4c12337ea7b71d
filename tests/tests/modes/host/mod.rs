//! Containers on the host's network: their own numbers, which no interface has.
//!
//! A control group's programs see what its sockets send after the host's firewall and receive after it, as packets of the
//! Internet's layer: 14 bytes less than an Ethernet interface counts. Truth is who knows what was sent, and for TCP what
//! passed the interface.

mod births;
mod connections;
mod datagrams;
mod differences;
mod groups;
mod lives;
pub(crate) mod stage;

use anyhow::Result;
use xtask::host::{CgroupWorld, EngineKind};

use crate::facts::{Fact, hold};
use stage::Stage;

/// Whose numbers are whose, however groups are laid out.
const OWN: &[Fact<Stage>] = &[
    ("datagrams up to the MTU are exact", datagrams::up_to_the_mtu),
    ("each container has its own numbers", datagrams::of_their_own),
    ("loopback is left out", datagrams::over_loopback),
    ("what a neighbour on a bridge gets", datagrams::to_a_bridge),
    ("TCP is what passed the interface", connections::as_captured),
    ("groups inside of the container's count", groups::nested),
    ("a parent of one's own", groups::under_another_parent),
    ("a scope as systemd makes them", groups::in_a_scope),
    ("a restart goes on, the end lingers", lives::restart_and_end),
    (
        "an ancestor's exclusive program is said",
        groups::under_an_exclusive_program,
    ),
    ("nobody else has such series", stage::nobody_else),
];

/// Where a control group sees something else than an interface.
const DIFFERENCES: &[Fact<Stage>] = &[
    (
        "its last answers in TIME_WAIT are not seen",
        connections::time_wait,
    ),
    (
        "refusals are not seen where nobody listens",
        connections::refusals,
    ),
    (
        "the kernel's own answers are not seen",
        differences::kernels_answers,
    ),
    ("its own pings are", differences::own_pings),
    ("frames of packet sockets are not", differences::packet_sockets),
    ("fragments are whole", differences::fragments),
    ("every member of a group gets a copy", differences::multicast),
    ("what a full buffer drops is counted", differences::full_buffer),
    ("nobody else has such series", stage::nobody_else),
];

fn hold_on(kind: EngineKind, world: CgroupWorld, facts: &[Fact<Stage>]) -> Result<()> {
    hold(&Stage::new(kind, world)?, facts)
}

#[test]
fn host_networks_are_the_containers_own_on_the_old_engine_in_a_hybrid_world() -> Result<()> {
    hold_on(EngineKind::Old, CgroupWorld::Hybrid, OWN)
}

#[test]
fn host_networks_are_the_containers_own_on_the_old_engine_with_cgroup_v2() -> Result<()> {
    hold_on(EngineKind::Old, CgroupWorld::V2, OWN)
}

#[test]
fn host_networks_are_the_containers_own_on_the_current_engine_in_a_hybrid_world() -> Result<()> {
    hold_on(EngineKind::Current, CgroupWorld::Hybrid, OWN)
}

#[test]
fn host_networks_are_the_containers_own_on_the_current_engine_with_cgroup_v2() -> Result<()> {
    hold_on(EngineKind::Current, CgroupWorld::V2, OWN)
}

#[test]
fn host_networks_differ_from_interfaces_by_exactly_this_on_the_old_engine() -> Result<()> {
    hold_on(EngineKind::Old, CgroupWorld::Hybrid, DIFFERENCES)
}

#[test]
fn host_networks_differ_from_interfaces_by_exactly_this_on_the_current_engine() -> Result<()> {
    hold_on(EngineKind::Current, CgroupWorld::V2, DIFFERENCES)
}

#[test]
fn fifty_first_datagrams_are_counted_on_the_old_engine() -> Result<()> {
    births::fifty_first_datagrams(EngineKind::Old, CgroupWorld::Hybrid)
}

#[test]
fn fifty_first_datagrams_are_counted_on_the_current_engine() -> Result<()> {
    births::fifty_first_datagrams(EngineKind::Current, CgroupWorld::V2)
}
