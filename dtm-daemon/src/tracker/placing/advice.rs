//! What to do about a container that is not counted.

/// Each `reason` of `dtm_container_uncovered`, and what to do about it.
const ADVICE: [(&str, &str); 12] = [
    (
        "overlay_network",
        "let --path.docker-netns be where the engine mounts its namespaces, mounted with :rslave into dtm's container",
    ),
    (
        "macvlan_network",
        "nothing is attached to its device yet: let dtm see the host's processes (--pid host) as root",
    ),
    (
        "ipvlan_network",
        "nothing is attached to its device yet: let dtm see the host's processes (--pid host) as root",
    ),
    (
        "network_driver",
        "dtm does not know this network's driver: put the container on a network of another one",
    ),
    (
        "bridge_not_found",
        "the network's bridge is not where dtm is: run dtm in the network namespace of the engine's host (--network host)",
    ),
    (
        "interface_not_found",
        "let dtm see the host's processes: --pid host, or the host's /proc mounted and named with --path.procfs",
    ),
    (
        "rootless_engine",
        "networks of a rootless engine are out of sight: run the container on an engine that runs as root",
    ),
    (
        "cgroup_v2_missing",
        "let the host mount cgroup v2 (Linux 5.2 or later), and dtm have CAP_SYS_ADMIN",
    ),
    (
        "cgroup_not_found",
        "let dtm see the host's control groups: --cgroupns host, or --pid host and --privileged",
    ),
    (
        "cgroup_program_exclusive",
        "a group above has a program that admits no other, as systemd's IPAccounting= makes on older hosts: switch it off",
    ),
    ("cgroup_refused", "dtm's log says what the kernel answered"),
    ("no_slot", "every slot is in use: raise --max-interfaces"),
];

/// What to do about a container that is uncovered for this reason, in one sentence.
pub(crate) fn advice(reason: &str) -> &'static str {
    let mut known = ADVICE.iter();
    known
        .find(|(known, _advice)| *known == reason)
        .map_or("dtm's log says why", |(_reason, advice)| advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented_and_every_documented_one_has_an_advice() {
        let docs = include_str!("../../../../docs/metrics.md");
        let table = docs.split_once("| `reason` | |").unwrap().1;
        let table = table.split_once("\n\n").unwrap().0;
        for (reason, _advice) in ADVICE {
            assert!(table.contains(&format!("`{reason}`")), "{reason}");
        }
        let cells = table.lines().filter_map(|line| line.split('|').nth(1));
        let documented: Vec<_> = cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        assert_eq!(documented.len(), ADVICE.len(), "{documented:?}");
    }
}
