//! `docs/metrics.md`, written from the table of families. `DTM_BLESS=1 cargo test -p dtm-daemon docs` renews it.

mod connections;
mod whereabouts;

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
- Where its traffic goes (`dtm_container_traffic_*`) is a second view of the same packets, and who sends to whom (`dtm_flow_*`)
  another: [scopes, protocols and services](#scopes-protocols-and-services), [the matrix](#who-sends-to-whom),
  [what each pathway looks like](#what-a-pathway-looks-like). `--no-scopes` and `--no-flows` leave them out.
- How its TCP connections fare (`dtm_container_tcp_*`): [how connections are counted](#how-connections-are-counted).
";

const PLACES: &str = r"
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
";

const SANDBOXES_AND_DROPS: &str = r"
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
  clean end), `icmpv6_rcv` (handled messages), and `ip6_mc_input` and `ip_rcv_finish_core` (multicast to somebody who has not
  joined the group). Where `/proc/kallsyms` hides the addresses these are counted, and the log says so.

Which reasons an alert should look at:

| reasons | what they are |
|---|---|
| `netfilter_drop`, `qdisc_drop`, `qdisc_overlimit`, `full_ring`, `cpu_backlog`, `socket_rcvbuff`, `socket_backlog`, `proto_mem`, `nomem`, `neigh_queuefull`, `neigh_failed`, `pkt_too_big`, `ip_outnoroutes`, `*_csum`, `tcp_rfc7323_paws`, and all that are not below | a loss: somebody waits for it, or sends it again |
| `otherhost`, `unhandled_proto`, `ipv6disabled`, `ipv6_ndisc_*`, `ip_inhdr`, `ip_rpfilter`, `unicast_in_l2_multicast`, `vlan_filter` | no loss: it was for somebody else, or of a kind nobody here speaks |
| `no_socket`, `tcp_flags`, `tcp_reset`, `tcp_abort_on_close`, `tcp_old_data`, `tcp_old_ack`, `tcp_old_sequence`, `tcp_ofo_drop`, `tcp_zerowindow` | the other side's doing: a closed port, the copies of ping's answers, an end in between, what arrived twice. Many of them are worth a look, a loss they are not |

The alert [DtmContainerDrops](operations.md#dtmcontainerdrops) leaves out the last two rows.

Whose drop it is, the first that is known of:

1. the owner of the socket that the packet was for (`receive`; from Linux 6.11 on);
2. the container at whose host end, or in whose namespace, the packet was: `transmit` if its source address is the container's,
   else `receive`;
3. the one that has the source address (`transmit`), else the one that has the destination address (`receive`). An address that
   two containers have stands for neither;
4. the owner of the socket that sent it (`transmit`);
5. the one that has an address of the packet's connection, as it was before addresses were translated, where the kernel has
   connection tracking built in and not as a module.

A socket is the container's in whose network namespace it is, and on the host's network that of its control group or of one
above it. `direction` is `unknown` where the packet has no addresses to tell it by. What is left is in
`dtm_unattributed_dropped_packets_total`. A kernel without reasons (before 5.17) has the one reason `unspecified`.

`dtm_container_network_interface_dropped_total` is another count: what the host end of the container's pair itself has thrown
away (`tx_dropped` is the container's `receive`). It is read with a scrape, at most every five seconds: what the device counts
between the last scrape and its end is not in it. Some of these packets are among the drops above as well. What devices inside
of a container count, macvlan and ipvlan included, is not in it.
";

const UPLINKS: &str = r"
## Uplinks

`--xdp eth0` counts what arrives at an interface before the host's firewall, conntrack, bridges and routing have seen any of it:
*reached the host*, where `dtm_container_*` is *reached the container*. It has nothing to do with containers, and is in nobody's
sums. VLAN tags are looked through, up to three; IPv6 extension headers too. `protocol` is as above. SYNs are in `tcp`, and
`dtm_uplink_receive_tcp_syns_total` is how many of it.

| `mode` | where | what is counted |
|---|---|---|
| `native` | in the driver, where it knows XDP | frames as they were on the wire |
| `generic` | in the kernel's stack, at any other interface, bridges included | buffers: what GRO or the sender's GSO has put together is one packet, with one header. The kernel copies what it has to make room for, which costs more than all that dtm does |

dtm tries native, and takes generic where the driver refuses; `dtm_uplink_attached` and the log say which. A tag that the network
card, or the port of a bridge, took off is not in the bytes. The interface's own `rx_bytes` lacks the 14 bytes of each Ethernet header at a bridge, and at a
veth with XDP. At a bridge, what goes up to the host is counted, not what it hands from port to port.

- It takes Linux 5.9, and every interface has one XDP program. Where another is, dtm leaves it alone, says so
  (`dtm_attach_errors_total` with `xdp_occupied`, and the log) and tries again every half minute. While dtm's is there, another is
  refused by the kernel.
- An end of a container's interface is refused, and so is any port of a bridge that is one of a veth pair (`xdp_refused`): XDP
  there takes the segmentation offloads away, and with them three quarters of the container's throughput. The loopback is refused
  too. Where the kernel has it there is `xdp` for what else it refuses.
- Many drivers set their queues up anew when an XDP program comes or goes: a moment without packets, once. It turns off LRO.
- An interface that is not there is waited for; one that comes again under its name goes on at its value. What is attached counts on
  while no dtm runs, unless `--no-pin` forbids that; who is started without the flag takes it off.
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
                Kind::Histogram => "histogram",
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
    text.push_str(PLACES);
    text.push_str(&whereabouts::sections());
    text.push_str(connections::CONNECTIONS);
    text.push_str(SANDBOXES_AND_DROPS);
    text.push_str(UPLINKS);
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
