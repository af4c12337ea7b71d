//! What `docs/metrics.md` says of TCP connections.

pub(super) const CONNECTIONS: &str = r"
## How connections are counted

`dtm_container_tcp_*` is of every TCP socket of a container: of its network namespace, or on the host's network of its control group,
the groups below it included. Containers that share another's network (`container:X`) are in X's numbers. Connections over the
container's own loopback are connections as well; only segments and resets are counted where they leave or enter it.

| metric | where it is counted |
|---|---|
| `…_transmitted_segments_total`, `…_resets_*` | where packets pass, by the protocol and the flags: as the kernel's `OutSegs` with what is sent again. Not there with `--no-scopes`. On the host's network resets are those that sockets send and receive: not those for ports where nobody listens |
| `…_retransmitted_segments_total` | where connections tell of it (below), and the tracepoint `tcp_retransmit_synack`: as the kernel's `RetransSegs` |
| `…_connections_opened_total`, `…_failed_total` | where connections tell of it: as the kernel's `ActiveOpens` less `AttemptFails`, and `PassiveOpens` |
| `…_connections` | the same, and a look at the sockets when dtm first sees a namespace: as the kernel's `CurrEstab`, which is established connections and those that only the other side has closed |
| `…_listen_*` | the namespace's own counters, read every 15 seconds. What comes between the last reading and a container's end is not seen. Not of containers on the host's network: the kernel counts for all of the host together |
| `…_rtt_seconds` | where connections tell of it: of each round trip once |
| `…_connect_duration_seconds` | a client's handshake from its first SYN, those that are sent again included; a server's is the kernel's first measure of the round trip, from its SYN-ACK, and is not there where that had to be sent again |

Connections tell of themselves to a `sock_ops` program at the root of cgroup v2, which adds its flags to those that a connection has. A
tracepoint (`tcp_probe`) would cost each segment that is received what this costs each round trip; and the kernel leaves out the
programs of tracepoints, without a word, where a packet that comes in interrupts a process that is calling bpf(2), as dtm is
while it reads its maps. That can happen to what tracepoints count: drops, SYN-ACKs that are sent again, and resets on the
host's network. Connections that are older than dtm are asked to tell when it starts. That needs Linux 6.12: before, these are not
counted, and `…_connections` is not there as long as a container has one of them.

`reason` of a connection that failed: `refused` (RST), `timeout` (no answer to any SYN), `unreachable` (ICMP said so, or nobody has
the address), `other` (above all the container gave up first: a time limit of its own is no `timeout` of the kernel's). What
`connect` refuses at once, because there is no route, never was a connection.

The histograms are there once a container has or had a connection. A restart of dtm loses nothing of all this; an upgrade to another
layout of maps, what happens in the milliseconds of the change. `--no-tcp` leaves all of it out but SYNs, `--no-tcp-rtt` the round trips.
";
