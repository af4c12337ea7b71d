//! Every map and every constant of the kernel side, with what happens when a map is full.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{self, ArrayOfMaps},
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf},
};
use dtm_common::{
    cgroups::CGROUP_EVENTS_BYTES,
    drops::{
        ADDRESSES_ENTRIES, Address, DROPS_ENTRIES, DropKey, DropTally, GROUPS_ENTRIES, HANDLERS,
        NETNS_ENTRIES,
    },
    errors::ERROR_KINDS,
    flows::FlowKey,
    index::{INDEX_BUCKETS, INDEX_OVERFLOW_ENTRIES, IndexEntry, InterfaceKey, SLOT_BY_INTERFACE},
    tcp::{HANDSHAKES_ENTRIES, TCP_ENTRIES, TcpCounters},
    traffic::SlotCounters,
    uplinks::UplinkCounters,
    views::{
        CHUNK, PEER_BUCKETS, PEERS_ENTRIES, PORT_WORDS, PeerEntry, PeerKey, SENDERS_ENTRIES, Site,
        ViewCounters, Volume,
    },
};

/// From an interface to its slot. Never full: a taken bucket sends the newcomer to `INDEX_OVERFLOW`.
#[map]
pub(crate) static INDEX: Array<IndexEntry> = Array::with_max_entries(INDEX_BUCKETS, 0);

/// Interfaces whose bucket in `INDEX` was taken. A hash, because their indices are spread over all 32 bits.
/// When it is full the daemon does not attach to the interface and says so.
#[map]
pub(crate) static INDEX_OVERFLOW: HashMap<InterfaceKey, u32> =
    HashMap::with_max_entries(INDEX_OVERFLOW_ENTRIES, 0);

/// The counters: one bank of `SLOTS` slots per possible CPU, at `cpu * SLOTS + slot`. A plain array, because
/// per-CPU maps cannot be mapped into the daemon. The daemon hands out the slots, so it is never full unseen.
#[map]
pub(crate) static COUNTERS: Array<SlotCounters> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What arrives at uplinks: one bank of `UPLINKS_MAX` slots per possible CPU, as [`COUNTERS`] has them. The daemon takes no
/// more uplinks than there are slots.
#[map]
pub(crate) static UPLINKS: Array<UplinkCounters> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Slots of one CPU in [`VIEWS`].
type Chunk = btf_maps::Array<ViewCounters, { CHUNK as usize }, { BPF_F_MMAPABLE as usize }>;

/// The second view of each slot, a kilobyte per CPU: chunk `c` of CPU `n` is at `n * CHUNKS + c`. The daemon makes a
/// chunk when it gives out the first of its slots, so that memory is taken by what there is and not by what there may
/// be. Where a chunk is missing `ERRORS` counts.
#[btf_map]
pub(crate) static VIEWS: ArrayOfMaps<Chunk, 1> = ArrayOfMaps::new();

/// What each port stands for: `dtm_common::views::ports`. The daemon fills it once.
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);

/// Where each slot's interface is. Its owner is the daemon, which has an entry for each slot.
#[map]
pub(crate) static SITES: Array<Site> = Array::with_max_entries(1, 0);

/// Who has an address: numbers of interfaces, or the host. Never full: a taken bucket sends the newcomer to
/// `PEERS_OVERFLOW`, and says so. A daemon that starts maps it to see who is there.
#[map]
pub(crate) static PEERS: Array<PeerEntry> = Array::with_max_entries(PEER_BUCKETS, BPF_F_MMAPABLE);

/// Addresses whose bucket was taken. A hash, because they can be any; without memory of its own, for only the daemon enters
/// anybody. When it is full, addresses are taken for what they are by themselves; the daemon counts the failed update.
#[map]
pub(crate) static PEERS_OVERFLOW: HashMap<PeerKey, u32> =
    HashMap::with_max_entries(PEERS_ENTRIES, BPF_F_NO_PREALLOC);

/// Control groups of containers on the host's network, by the kernel's id, to the number of what counts there. When it
/// is full the host is taken for the sender; the daemon counts the failed update.
#[map]
pub(crate) static SENDERS: HashMap<u64, u32> = HashMap::with_max_entries(SENDERS_ENTRIES, BPF_F_NO_PREALLOC);

/// Which levels of the hierarchy those groups are at: bit `n` is level `n`.
#[map]
pub(crate) static SENDER_LEVELS: Array<u32> = Array::with_max_entries(1, 0);

/// Who sends how much to whom. A hash, because pairs are few of all there could be. When it is full, `FlowKey::REST` has
/// what does not fit, and `ERRORS` counts.
#[map]
pub(crate) static FLOWS: PerCpuHashMap<FlowKey, Volume> = PerCpuHashMap::with_max_entries(1, 0);

/// Who a slot's drops belong to: a container's number, `OWNER_PENDING | slot`, or 0 for a bridge.
#[map]
pub(crate) static OWNERS: Array<u32> = Array::with_max_entries(1, 0);

/// Containers' network namespaces, by inode, to the container's number. A hash: inode numbers are large. When it
/// is full the drops inside the namespace are attributed by address only; the daemon counts the failed update.
#[map]
pub(crate) static NETNS_OWNERS: HashMap<u32, u32> = HashMap::with_max_entries(NETNS_ENTRIES, 0);

/// Containers' addresses, to the container's number. When it is full, drops outside the container's namespace
/// stay unattributed; the daemon counts the failed update.
#[map]
pub(crate) static ADDRESS_OWNERS: HashMap<Address, u32> = HashMap::with_max_entries(ADDRESSES_ENTRIES, 0);

/// Control groups of containers on the host's network, by the kernel's id, to the container's number or `OWNER_PENDING | slot`.
/// Without memory of its own, for only the daemon enters anybody. When it is full, what happens to the group's sockets is
/// nobody's; the daemon counts the failed update.
#[map]
pub(crate) static GROUP_OWNERS: HashMap<u64, u32> =
    HashMap::with_max_entries(GROUPS_ENTRIES, BPF_F_NO_PREALLOC);

/// Drops. A hash, because owner × reason × direction is mostly empty. When it is full, `ERRORS` counts what could
/// not be entered.
#[map]
pub(crate) static DROPS: PerCpuHashMap<DropKey, DropTally> =
    PerCpuHashMap::with_max_entries(DROPS_ENTRIES, 0);

/// What each container's connections have done, by its number. Without memory of its own: the daemon enters whoever has an
/// interface or a group. When it is full the connections of further ones are not counted; the daemon counts the failed
/// update.
#[map]
pub(crate) static TCP: HashMap<u32, TcpCounters> = HashMap::with_max_entries(TCP_ENTRIES, BPF_F_NO_PREALLOC);

/// When connections were begun, by the address of their socket, in nanoseconds. When it is full, `ERRORS` counts.
#[map]
pub(crate) static HANDSHAKES: HashMap<u64, u64> =
    HashMap::with_max_entries(HANDSHAKES_ENTRIES, BPF_F_NO_PREALLOC);

/// Whose programs count in `TCP`: those with this `TCP_EPOCH`.
#[map]
pub(crate) static TCP_RUNNING: Array<u32> = Array::with_max_entries(1, 0);

/// How many connections each container has, by its number: for one walk over the sockets of a namespace at a time. The
/// daemon enters those that are to be counted.
#[map]
pub(crate) static ESTABLISHED_NOW: HashMap<u32, u64> =
    HashMap::with_max_entries(TCP_ENTRIES, BPF_F_NO_PREALLOC);

/// What counts drops: `dtm_count_drop`, which is replaced here while drops go on being counted.
#[map]
pub(crate) static DROP_COUNTER: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// What went wrong here, by `dtm_common::errors`.
#[map]
pub(crate) static ERRORS: PerCpuArray<u64> = PerCpuArray::with_max_entries(ERROR_KINDS, 0);

/// Births and ends of control groups. A ring, because each is news once. When it is full, `CGROUP_EVENTS_LOST` counts,
/// and the daemon looks at all groups.
#[map]
pub(crate) static CGROUP_EVENTS: RingBuf = RingBuf::with_byte_size(CGROUP_EVENTS_BYTES, 0);

/// What found no room in `CGROUP_EVENTS`.
#[map]
pub(crate) static CGROUP_EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Slots in a CPU's bank of `COUNTERS`.
#[unsafe(no_mangle)]
pub(crate) static SLOTS: Global<u32> = Global::new(1);

/// Chunks of a CPU in `VIEWS`.
#[unsafe(no_mangle)]
pub(crate) static CHUNKS: Global<u32> = Global::new(1);

/// Whether the second view is counted at all; where it is not, the programs have nothing of it.
#[unsafe(no_mangle)]
pub(crate) static COUNT_SCOPES: Global<u32> = Global::new(0);

/// The same of the matrix.
#[unsafe(no_mangle)]
pub(crate) static COUNT_FLOWS: Global<u32> = Global::new(0);

/// The one slot a program counts into, whatever the interface, or `SLOT_BY_INTERFACE`. Outside of dtm's own namespace
/// an interface's index may change, and may be another's in dtm's.
#[unsafe(no_mangle)]
pub(crate) static SLOT: Global<u32> = Global::new(SLOT_BY_INTERFACE);

/// The daemon's number for the network namespace the classifiers are attached in.
#[unsafe(no_mangle)]
pub(crate) static NETNS: Global<u32> = Global::new(0);

/// Inode of the namespace whose number is `NETNS`.
#[unsafe(no_mangle)]
pub(crate) static NETNS_INUM: Global<u32> = Global::new(0);

/// Reasons that are no drops: bit `n` is reason `n`, 0…63.
#[unsafe(no_mangle)]
pub(crate) static NO_DROP_LOW: Global<u64> = Global::new(0);

/// As `NO_DROP_LOW`, for reasons 64…127.
#[unsafe(no_mangle)]
pub(crate) static NO_DROP_HIGH: Global<u64> = Global::new(0);

/// The number of `SKB_DROP_REASON_NOT_SPECIFIED`, or `u32::MAX` where the kernel gives no reasons.
#[unsafe(no_mangle)]
pub(crate) static REASON_NOT_SPECIFIED: Global<u32> = Global::new(u32::MAX);

/// Where the kernel frees what it has handled, with no reason given: the first address of each function and the first
/// after it. See `dtm_common::drops::HANDLERS`.
#[unsafe(no_mangle)]
pub(crate) static HANDLED: Global<[[u64; 2]; HANDLERS.len()]> = Global::new([[0; 2]; HANDLERS.len()]);

/// Offset of `sk_buff.len` in the running kernel.
#[unsafe(no_mangle)]
pub(crate) static SKB_LEN: Global<u32> = Global::new(0);

/// Offset of `sk_buff.protocol`.
#[unsafe(no_mangle)]
pub(crate) static SKB_PROTOCOL: Global<u32> = Global::new(0);

/// Offset of `sk_buff.dev`.
#[unsafe(no_mangle)]
pub(crate) static SKB_DEV: Global<u32> = Global::new(0);

/// Offset of `sk_buff.sk`.
#[unsafe(no_mangle)]
pub(crate) static SKB_SK: Global<u32> = Global::new(0);

/// Offset of `sk_buff.head`.
#[unsafe(no_mangle)]
pub(crate) static SKB_HEAD: Global<u32> = Global::new(0);

/// Offset of `sk_buff.network_header`.
#[unsafe(no_mangle)]
pub(crate) static SKB_NETWORK_HEADER: Global<u32> = Global::new(0);

/// Offset of `sk_buff.tail`.
#[unsafe(no_mangle)]
pub(crate) static SKB_TAIL: Global<u32> = Global::new(0);

/// Offset of `sk_buff.end`.
#[unsafe(no_mangle)]
pub(crate) static SKB_END: Global<u32> = Global::new(0);

/// Offset of `skb_shared_info.gso_segs`.
#[unsafe(no_mangle)]
pub(crate) static SHINFO_GSO_SEGS: Global<u32> = Global::new(0);

/// Offset of `net_device.ifindex`.
#[unsafe(no_mangle)]
pub(crate) static DEV_IFINDEX: Global<u32> = Global::new(0);

/// Offset of `net_device.nd_net.net`.
#[unsafe(no_mangle)]
pub(crate) static DEV_NET: Global<u32> = Global::new(0);

/// Offset of `net.ns.inum`.
#[unsafe(no_mangle)]
pub(crate) static NET_INUM: Global<u32> = Global::new(0);

/// Offset of `sock.__sk_common.skc_net.net`, or `u32::MAX` where sockets cannot be told apart: then the next ones are not known
/// either.
#[unsafe(no_mangle)]
pub(crate) static SOCK_NET: Global<u32> = Global::new(u32::MAX);

/// Which dtm's programs these are, in `TCP_RUNNING`.
#[unsafe(no_mangle)]
pub(crate) static TCP_EPOCH: Global<u32> = Global::new(0);

/// What connections are to tell of: flags of `dtm_common::tcp`.
#[unsafe(no_mangle)]
pub(crate) static WANTED: Global<u32> = Global::new(0);

/// Offset of `tcp_sock.bpf_sock_ops_cb_flags`: what a connection tells of.
#[unsafe(no_mangle)]
pub(crate) static TCP_TELLS: Global<u32> = Global::new(0);

/// Offset of `sock.__sk_common.skc_state`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_STATE: Global<u32> = Global::new(0);

/// Offset of `sock.__sk_common.skc_listener`, which only the beginning of a connection has.
#[unsafe(no_mangle)]
pub(crate) static SOCK_LISTENER: Global<u32> = Global::new(0);

/// Offset of `sock.sk_cgrp_data.cgroup`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_CGROUP: Global<u32> = Global::new(0);

/// Offset of `kernfs_node.id`.
#[unsafe(no_mangle)]
pub(crate) static NODE_ID: Global<u32> = Global::new(0);

/// Offset of the pointer to a `kernfs_node`'s parent.
#[unsafe(no_mangle)]
pub(crate) static NODE_PARENT: Global<u32> = Global::new(0);

/// Offset of `sock.sk_err`.
#[unsafe(no_mangle)]
pub(crate) static SOCK_ERR: Global<u32> = Global::new(0);

/// Offset of `tcp_sock.srtt_us`.
#[unsafe(no_mangle)]
pub(crate) static TCP_SRTT: Global<u32> = Global::new(0);

/// Offset of `tcp_sock.total_retrans`.
#[unsafe(no_mangle)]
pub(crate) static TCP_RETRANS: Global<u32> = Global::new(0);

/// Whether `kfree_skb` says which socket a packet was for: 1 from Linux 6.11 on.
#[unsafe(no_mangle)]
pub(crate) static HAS_RECEIVER: Global<u32> = Global::new(0);

/// Offset of `sk_buff._nfct`, or `u32::MAX` where connections cannot be looked at: then the next ones are not known either.
#[unsafe(no_mangle)]
pub(crate) static SKB_CONNECTION: Global<u32> = Global::new(u32::MAX);

/// Offset of `nf_conn.tuplehash[0].tuple.src.u3`: who began the connection.
#[unsafe(no_mangle)]
pub(crate) static CT_SOURCE: Global<u32> = Global::new(0);

/// Offset of `nf_conn.tuplehash[0].tuple.dst.u3`: to whom.
#[unsafe(no_mangle)]
pub(crate) static CT_DESTINATION: Global<u32> = Global::new(0);

/// Offset of `nf_conn.tuplehash[0].tuple.src.l3num`: of which family the two are.
#[unsafe(no_mangle)]
pub(crate) static CT_FAMILY: Global<u32> = Global::new(0);

/// Offset of `cgroup.root`, or `u32::MAX` where it is not known.
#[unsafe(no_mangle)]
pub(crate) static CGROUP_ROOT: Global<u32> = Global::new(u32::MAX);

/// Offset of `cgroup_root.hierarchy_id`; known where `CGROUP_ROOT` is, as the next two are.
#[unsafe(no_mangle)]
pub(crate) static ROOT_HIERARCHY: Global<u32> = Global::new(0);

/// Offset of `cgroup.kn`; known where `SOCK_NET` is, too.
#[unsafe(no_mangle)]
pub(crate) static CGROUP_NODE: Global<u32> = Global::new(0);

/// Offset of `kernfs_node.name`.
#[unsafe(no_mangle)]
pub(crate) static NODE_NAME: Global<u32> = Global::new(0);

/// Counts one thing that went wrong, by its number in `dtm_common::errors`.
#[inline(always)]
pub(crate) fn count_error(kind: u32) -> u64 {
    count_one(&ERRORS, kind)
}

/// Adds one to this CPU's counter at `index`.
#[inline(always)]
pub(crate) fn count_one(counters: &PerCpuArray<u64>, index: u32) -> u64 {
    let Some(counter) = counters.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: this CPU's own counter; the verifier has checked the pointer. A nested run may lose one error.
    unsafe {
        *counter += 1;
        *counter
    }
}

/// The slot of an interface, if it has one.
#[inline(always)]
pub(crate) fn slot_of(key: InterfaceKey) -> Option<u32> {
    let entry = INDEX.get_ptr(key.bucket())?;
    // SAFETY: the verifier has checked the pointer; the daemon writes an entry before it attaches and never
    // moves it while attached.
    let entry = unsafe { &*entry };
    if entry.key.ifindex == key.ifindex && entry.key.netns == key.netns {
        return Some(entry.slot);
    }
    let slot = INDEX_OVERFLOW.get_ptr(key)?;
    // SAFETY: the verifier has checked the pointer.
    Some(unsafe { *slot })
}
