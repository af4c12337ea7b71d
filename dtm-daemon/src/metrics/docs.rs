//! `docs/metrics.md`, written from the table of families. `DTM_BLESS=1 cargo test -p dtm-daemon docs` renews it.

use std::{env, fmt::Write as _, fs};

use super::families::{Kind, SECTIONS};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

const INTRODUCTION: &str = r"<!-- Generated: DTM_BLESS=1 cargo test -p dtm-daemon docs -->
# Metrics

What `/metrics` exposes, in OpenMetrics 1.0 or in Prometheus' text format 0.0.4, whichever the client asks for.

- **Direction is the container's**: *receive* is what it is offered, *transmit* what it sends. At a bridge, *receive*
  is into the network.
- Counters start at 0 when dtm first sees a container; nothing is taken over from the kernel's own counters.
- They go on through dtm's own end: what is attached counts while no dtm runs, and the next one shows it, unless `--no-pin`
  forbids that or there is no place for it. Numbers of the process itself (`process_*`, `dtm_takeover_interfaces`) start anew.
- Where the kernel's counters grow by something else, and by exactly how much: [counting.md](counting.md).
- When a container ends, its counters stay unchanged for `--linger` (5 minutes) and then go; its gauges go at once.
- When a living container leaves a network, its series of that network stay for its return. They go, after `--linger`, once
  the network is removed or another of its interfaces is on it: Docker 20.10 gives each a name of its own.
- A renamed container goes on under its new name at the same values; a re-created one has a new id and new series.
- Everything else about a container is in `dtm_container_info`, to be joined:

  ```promql
  sum by (compose_service) (
    rate(dtm_container_network_transmit_bytes_total[5m])
    * on (instance, container_id) group_left (compose_service) dtm_container_info
  )
  ```
- What short-lived containers moved is in `dtm_network_containers_*` too, whose series are there before them.
- A packet is counted once for each container it belongs to. Bridge counters are a view of their own: they are never
  part of a container's.
- Where a container is counted depends on its network: [below](#where-a-container-is-counted).
";

const APPENDIX: &str = r"
## Where a container is counted

| network | where | labels |
|---|---|---|
| bridge: the default one, user-defined, internal, routed, IPv6 only | host end of its veth pair | the network's name, the interface's name inside |
| overlay (Swarm) | host end of its veth pair, inside the namespace that the engine hides the network in. Its way out of the node is another interface, on `docker_gwbridge` | the same, one series each |
| macvlan, ipvlan | the container's own device: it has no other end. With TCX from its birth on, before it moves into the container | the same |
| host network | its control group (cgroup v2), the groups below it included | `network` is `host`, `interface` is empty |
| `container:X` | nowhere a second time: the namespace's traffic is X's. `network_container_id` of `dtm_container_info` names X. Where X is on the host's network, both have numbers of their own | X's |
| `none` | nowhere, there is nothing to count | no series |

The namespace of an overlay network is made with the network's first container on a node, and its new bridge speaks at once
(IGMP, MLD): of that, the first reports may come before dtm is there. What a container sends and is sent is not before.

A container on several networks has a series for each network and interface. Where nothing counts although something should,
there is no series with a zero in it but `dtm_container_uncovered`, with the reason:

| `reason` | |
|---|---|
| `overlay_network`, `macvlan_network`, `ipvlan_network` | nothing is attached on such a network (yet). For overlay networks `--path.docker-netns` must be where the engine mounts its namespaces, in a container with `:rslave` |
| `network_driver` | a driver that dtm does not know |
| `rootless_engine` | the engine is rootless: its networks, the one it calls the host's included, are in a namespace that RootlessKit keeps, out of dtm's sight. Containers on the host's network are counted where the engine makes control groups for them |
| `bridge_not_found` | the network's bridge is not in the network namespace that dtm is in: it is to share the host's (`--network host`), or the engine is on another machine |
| `cgroup_v2_missing` | the host has no cgroup v2 hierarchy that dtm could mount (Linux 5.2, `CAP_SYS_ADMIN`) |
| `cgroup_not_found` | no group has this container's id in its name: dtm does not see the host's groups (`--cgroupns host`, `--pid host`), or the engine is on another machine |
| `interface_not_found` | Docker says that it is on a bridge network, and for ten seconds no interface was found to be its: dtm does not see the host's processes (`--pid host`, or `--path.procfs`), or the engine is on another machine. What the interface moves has no name: `dtm_unattributed_*` |
| `cgroup_program_exclusive` | a group above has a program that admits no other beside it, as systemd's `IPAccounting=` makes on older hosts |
| `cgroup_refused`, `no_slot` | the log says why; every slot is in use |

## Host network

A control group's programs see what its sockets send after the host's firewall and receive after it. That is layer 3: 14 bytes
a packet less than an Ethernet interface counts; sent before it is cut into fragments, received after they are put together.
Loopback is left out, as in every other mode. What they do not see, and what they see twice (each is a test):

| | |
|---|---|
| answers of a connection in TIME_WAIT: the last ACK of a clean end, and what repeats it | not seen |
| resets, where nobody listens or a connection is gone | not seen |
| what the kernel itself answers: pings of others, ICMP errors | not seen. A container's own pings are |
| frames of packet sockets (`AF_PACKET`), and what the host forwards | not seen |
| multicast with several members on the host | each member's copy is counted, its sender's own included |
| datagrams that a full socket buffer then drops | counted |
| sockets of other network namespaces that a container makes for itself | counted: they are in its group |

## Docker's own sandboxes

`dtm_infrastructure_*` is what interfaces on Docker's bridges move that belong to no container but to Docker itself. It is
in no container's numbers and in no `dtm_network_containers_*`. As with these, the sums are of sandboxes living and gone,
begin with everything since the attach, and are there from 0 as soon as the network is.

| `kind` | `network` | what it is |
|---|---|---|
| `build` | `bridge` | steps (`RUN`) of builds by the engine's own BuildKit, recognised by their control groups |
| `ingress` | `docker_gwbridge`, `ingress` | the sandbox of Swarm's routing mesh: what comes to published ports; it has no process and is recognised by its namespace's mount, `ingress_sbox` in `--path.docker-netns` |
| `load_balancer` | any overlay network | the sandbox of the virtual addresses of Swarm's services, `lb_…` in the same directory |

The steps of the classic builder are containers and are counted as such; so is a BuildKit that runs in a container (`docker
buildx create`), with everything its steps send. What is dropped at a sandbox is in `dtm_unattributed_dropped_packets_total`.
Without the directory, Swarm's sandbox stays without a name, and its traffic is unattributed after 20 s.

## What counts as a drop

Drops are what the kernel frees with `kfree_skb`, under the name it gives the reason (`enum skb_drop_reason`, lower case,
without its prefix; the list differs between kernels). A packet that belongs to several segments counts as all of them.
Left out is what the kernel frees in the same way without having lost it:

- the reasons `consumed`, `not_dropped_yet`, `queue_purge`, `socket_close` and `packet_sock_error` (a sniffer's copy), and
  buffers of local sockets, which have no protocol;
- `not_specified` without a device: a socket that is cleaned up after what it delivered;
- `not_specified` inside `tcp_v4_rcv` and `tcp_v6_rcv` (what a connection in TIME_WAIT answers, such as the last FIN of a
  clean end), `icmpv6_rcv` (handled messages) and `ip6_mc_input` (multicast to somebody who has not joined the group). Where
  `/proc/kallsyms` hides the addresses these are counted, and the log says so.

Counted, though nobody misses them, are among others `otherhost`, `ipv6disabled` and `unhandled_proto`, and `no_socket` for
the copies of ping's answers.

Whose drop it is: the container's at whose host end, or in whose namespace, the packet was; else the one's that has the
source address (`transmit`); else the one's that has the destination address (`receive`). An address that two containers
have stands for neither. `direction` is `unknown` where the packet has no addresses to tell it by.
";

fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for section in SECTIONS {
        write!(
            text,
            "\n## {}\n\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n",
            section.title
        )
        .unwrap();
        for family in section.families {
            let kind = match family.kind() {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let unit = family
                .unit()
                .1
                .map_or(String::new(), |unit| unit.as_str().to_owned());
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let help = family.help.replace('|', "\\|").replace('<', "\\<");
            writeln!(
                text,
                "| `{}` | {kind} | {unit} | {} | {help} |",
                family.name,
                labels.join(", ")
            )
            .unwrap();
        }
    }
    text.push_str(APPENDIX);
    text
}

#[test]
fn docs_are_those_of_the_table() {
    let expected = markdown();
    if env::var_os("DTM_BLESS").is_some() {
        fs::write(PATH, &expected).unwrap();
    }
    let written = fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        written == expected,
        "docs/metrics.md is stale: DTM_BLESS=1 cargo test -p dtm-daemon docs"
    );
}
