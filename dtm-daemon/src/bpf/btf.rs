//! What the running kernel's own type information says: where fields are, and what drop reasons are called.
//!
//! Rust eBPF objects carry no CO-RE relocations, so the offsets are looked up here and handed to the programs as
//! constants before they load.

use std::{collections::BTreeMap, fs::File, io, os::fd::AsRawFd as _, path::Path, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use btf_rs::{Backend, Btf, BtfType, Type};
use rustix::fs::MemfdFlags;

/// Reasons with which the kernel frees packets that were not lost. By name: the numbers differ between kernels.
///
/// `CONSUMED` and `NOT_DROPPED_YET` say so themselves; `QUEUE_PURGE` and `SOCKET_CLOSE` are a socket's own queues at its
/// end; `PACKET_SOCK_ERROR` is a sniffer's copy, the packet itself goes on.
const NO_DROPS: [&str; 5] = [
    "consumed",
    "not_dropped_yet",
    "queue_purge",
    "socket_close",
    "packet_sock_error",
];

/// The name for a kernel that gives no reasons.
const UNSPECIFIED: &str = "unspecified";

/// Where the kernel side finds what it reads of a dropped packet, in bytes from the start of each structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTypes {
    /// (name of the program's constant, offset).
    pub offsets: Vec<(&'static str, u32)>,
    /// Whether a drop says which socket the packet was for.
    pub has_receiver: bool,
    /// The drop reasons.
    pub reasons: DropReasons,
    /// Whether it is known where sockets have what their connections do.
    pub has_sockets: bool,
}

/// `enum skb_drop_reason` of the running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropReasons {
    names: BTreeMap<u32, Arc<str>>,
    numbers: BTreeMap<Arc<str>, u32>,
}

/// The program's constant, the structure, and the path to the field in it.
const FIELDS: [(&str, &str, &[&str]); 12] = [
    ("SKB_LEN", "sk_buff", &["len"]),
    ("SKB_PROTOCOL", "sk_buff", &["protocol"]),
    ("SKB_DEV", "sk_buff", &["dev"]),
    ("SKB_SK", "sk_buff", &["sk"]),
    ("SKB_HEAD", "sk_buff", &["head"]),
    ("SKB_NETWORK_HEADER", "sk_buff", &["network_header"]),
    ("SKB_TAIL", "sk_buff", &["tail"]),
    ("SKB_END", "sk_buff", &["end"]),
    ("SHINFO_GSO_SEGS", "skb_shared_info", &["gso_segs"]),
    ("DEV_IFINDEX", "net_device", &["ifindex"]),
    ("DEV_NET", "net_device", &["nd_net", "net"]),
    ("NET_INUM", "net", &["ns", "inum"]),
];

/// As [`FIELDS`], of connections: all of them and those of [`SOCKET_FIELDS`], or connections are not counted.
const TCP_FIELDS: [(&str, &str, &[&str]); 4] = [
    ("SOCK_ERR", "sock", &["sk_err"]),
    ("TCP_SRTT", "tcp_sock", &["srtt_us"]),
    ("TCP_RETRANS", "tcp_sock", &["total_retrans"]),
    ("TCP_TELLS", "tcp_sock", &["bpf_sock_ops_cb_flags"]),
];

/// As [`FIELDS`], of a control group: all of them, or its hierarchy and name are not known.
const CGROUP_FIELDS: [(&str, &str, &[&str]); 4] = [
    ("CGROUP_ROOT", "cgroup", &["root"]),
    ("ROOT_HIERARCHY", "cgroup_root", &["hierarchy_id"]),
    ("CGROUP_NODE", "cgroup", &["kn"]),
    ("NODE_NAME", "kernfs_node", &["name"]),
];

/// As [`FIELDS`], of a socket, its namespace and its control group: all of them, or whose it is is not known. A control group
/// tells of its parents through its directory.
const SOCKET_FIELDS: [(&str, &str, &[&str]); 6] = [
    ("SOCK_NET", "sock", &["__sk_common", "skc_net", "net"]),
    ("SOCK_STATE", "sock", &["__sk_common", "skc_state"]),
    ("SOCK_LISTENER", "sock", &["__sk_common", "skc_listener"]),
    ("SOCK_CGROUP", "sock", &["sk_cgrp_data", "cgroup"]),
    ("CGROUP_NODE", "cgroup", &["kn"]),
    ("NODE_ID", "kernfs_node", &["id"]),
];

/// What the directory above is called, since Linux 6.15 and before.
const PARENTS: [&str; 2] = ["__parent", "parent"];

/// As [`FIELDS`], of a connection that the host's firewall follows: all of them, or none is looked at. Where that is a module of
/// the kernel, its structures are not in the kernel's own type information.
const CONNECTION_FIELDS: [(&str, &str, &[&str]); 4] = [
    ("SKB_CONNECTION", "sk_buff", &["_nfct"]),
    ("CT_SOURCE", "nf_conn", &["tuplehash", "tuple", "src", "u3"]),
    ("CT_DESTINATION", "nf_conn", &["tuplehash", "tuple", "dst", "u3"]),
    ("CT_FAMILY", "nf_conn", &["tuplehash", "tuple", "src", "l3num"]),
];

/// What the kernel hands to programs at the tracepoint of drops, and which of it is the socket that a packet was for.
const DROP_PROTOTYPE: &str = "btf_trace_kfree_skb";
const RECEIVER: usize = 4;

impl KernelTypes {
    /// Reads the type information at `path`, `/sys/kernel/btf/vmlinux` on a normal host.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let btf = open(path)
            .with_context(|| format!("read the kernel's type information from {}", path.display()))?;
        let mut offsets = offsets(&btf, &FIELDS)?;
        let of_connections = match socket_offsets(&btf) {
            Ok(of_sockets) => {
                offsets.extend(of_sockets);
                self::offsets(&btf, &TCP_FIELDS)
            }
            Err(error) => Err(error),
        };
        let has_sockets = of_connections.is_ok();
        let optional = [
            (
                self::offsets(&btf, &CGROUP_FIELDS),
                "control groups of every hierarchy are told of",
            ),
            (of_connections, "TCP connections are not counted"),
            (
                self::offsets(&btf, &CONNECTION_FIELDS),
                "whose a drop is is not looked for in connections",
            ),
        ];
        for (found, without) in optional {
            match found {
                Ok(found) => offsets.extend(found),
                Err(error) => tracing::debug!(error = format_args!("{error:#}"), "{without}"),
            }
        }
        Ok(Self {
            has_receiver: has_receiver(&btf).unwrap_or(false),
            offsets,
            reasons: DropReasons::read(&btf)?,
            has_sockets,
        })
    }
}

/// Opens type information so that only what is asked for is parsed: in full it would be 40 MB of the daemon's memory.
fn open(path: &Path) -> anyhow::Result<Btf> {
    if let Ok(btf) = Btf::from_file_with_backend(path, Backend::Mmap) {
        return Ok(btf);
    }
    // Before 6.16 the kernel's own file can be read but not mapped (ENODEV); a copy in memory can. It goes with the last
    // use of the mapping.
    let copy = rustix::fs::memfd_create("dtm-btf", MemfdFlags::CLOEXEC).context("make a file in memory")?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(path)?, &mut copy)?;
    let mapped = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(Btf::from_file_with_backend(mapped, Backend::Mmap)?)
}

fn offsets(btf: &Btf, fields: &[(&'static str, &str, &[&str])]) -> anyhow::Result<Vec<(&'static str, u32)>> {
    let found = fields
        .iter()
        .map(|(constant, structure, field)| Ok((*constant, offset(btf, structure, field)?)));
    found.collect()
}

/// Those of [`SOCKET_FIELDS`], and where a directory has the one above.
fn socket_offsets(btf: &Btf) -> anyhow::Result<Vec<(&'static str, u32)>> {
    let mut found = offsets(btf, &SOCKET_FIELDS)?;
    let parent = PARENTS
        .iter()
        .find_map(|name| offset(btf, "kernfs_node", &[name]).ok());
    found.push((
        "NODE_PARENT",
        parent.context("a directory of this kernel has none above it")?,
    ));
    Ok(found)
}

/// Whether the tracepoint of drops has the socket that a packet was for.
fn has_receiver(btf: &Btf) -> anyhow::Result<bool> {
    for prototype in btf.resolve_types_by_name(DROP_PROTOTYPE)? {
        let Type::Typedef(prototype) = prototype else {
            continue;
        };
        if let Type::Ptr(function) = btf.resolve_chained_type(&prototype)?
            && let Type::FuncProto(function) = btf.resolve_chained_type(&function)?
            && let Some(receiver) = function.parameters.get(RECEIVER)
            && let Type::Ptr(receiver) = btf.resolve_chained_type(receiver)?
            && let Type::Struct(receiver) = btf.resolve_chained_type(&receiver)?
        {
            return Ok(btf.resolve_name(&receiver)? == "sock");
        }
    }
    Ok(false)
}

/// The offset of the field at `path` of `structure`, in bytes.
fn offset(btf: &Btf, structure: &str, path: &[&str]) -> anyhow::Result<u32> {
    let types = btf
        .resolve_types_by_name(structure)
        .with_context(|| format!("find struct {structure} in the kernel's type information"))?;
    let mut current = types
        .into_iter()
        .find(|candidate| matches!(candidate, Type::Struct(_)))
        .ok_or_else(|| anyhow!("the kernel's type information has no struct {structure}"))?;
    let mut bits = 0;
    for name in path {
        let (field_bits, field) = member(btf, &current, name)?.ok_or_else(|| {
            anyhow!(
                "struct {structure} of this kernel has no field {}",
                path.join(".")
            )
        })?;
        bits += field_bits;
        current = field;
    }
    Ok(bits / 8)
}

/// The bit offset and type of the member `name`, looked for in anonymous structs and unions too.
fn member(btf: &Btf, aggregate: &Type, name: &str) -> anyhow::Result<Option<(u32, Type)>> {
    let (Type::Struct(aggregate) | Type::Union(aggregate)) = aggregate else {
        return Ok(None);
    };
    for member in &aggregate.members {
        let bits = member.bit_offset();
        let member_name = btf.resolve_name(member)?;
        if member_name != name && !member_name.is_empty() {
            continue;
        }
        let target = resolved(btf, member)?;
        if member_name == name {
            return Ok(Some((bits, target)));
        }
        if let Some((inner_bits, inner)) = self::member(btf, &target, name)? {
            return Ok(Some((bits + inner_bits, inner)));
        }
    }
    Ok(None)
}

/// The type behind a member, past typedefs and qualifiers; of an array, its elements'.
fn resolved(btf: &Btf, member: &dyn BtfType) -> anyhow::Result<Type> {
    let mut current = btf.resolve_chained_type(member)?;
    // Chains of typedefs are short; the bound is against a malformed file.
    for _ in 0..16 {
        let next = match &current {
            Type::Typedef(inner) => btf.resolve_chained_type(inner)?,
            Type::Volatile(inner) | Type::Const(inner) => btf.resolve_chained_type(inner)?,
            Type::Array(inner) => btf.resolve_chained_type(inner)?,
            Type::TypeTag(inner) => btf.resolve_chained_type(inner)?,
            _ => return Ok(current),
        };
        current = next;
    }
    bail!("a chain of more than 16 typedefs in the kernel's type information")
}

impl DropReasons {
    /// Reads the enum; a kernel without it (before 5.17) has the one reason `unspecified`.
    fn read(btf: &Btf) -> anyhow::Result<Self> {
        let Ok(types) = btf.resolve_types_by_name("skb_drop_reason") else {
            return Ok(Self::none());
        };
        let mut members = Vec::new();
        for candidate in types {
            let Type::Enum(reasons) = candidate else { continue };
            for member in &reasons.members {
                members.push((member.val(), btf.resolve_name(member)?));
            }
        }
        Ok(if members.is_empty() {
            Self::none()
        } else {
            Self::from_members(members)
        })
    }

    /// For a kernel that gives no reasons.
    pub fn none() -> Self {
        let name: Arc<str> = Arc::from(UNSPECIFIED);
        Self {
            names: BTreeMap::from([(0, Arc::clone(&name))]),
            numbers: BTreeMap::from([(name, 0)]),
        }
    }

    fn from_members(members: Vec<(u32, String)>) -> Self {
        let mut reasons = Self::default();
        for (number, member) in members {
            let Some(name) = reason_name(&member) else {
                continue;
            };
            let name: Arc<str> = Arc::from(name);
            reasons.names.insert(number, Arc::clone(&name));
            reasons.numbers.insert(name, number);
        }
        reasons
    }

    /// The `reason` label of a number: the kernel's name, lower case, without its prefix. A number the enum does not
    /// have belongs to a subsystem with reasons of its own (mac80211, openvswitch).
    pub fn name(&self, number: u32) -> Arc<str> {
        self.names.get(&number).map_or_else(
            || Arc::from(if number > 0xffff { "subsystem" } else { "unknown" }),
            Arc::clone,
        )
    }

    /// The number of `not_specified`; none on a kernel that gives no reasons.
    pub fn not_specified(&self) -> Option<u32> {
        self.numbers.get("not_specified").copied()
    }

    /// Bits of the numbers below 128 that lose nothing.
    pub fn no_drops(&self) -> u128 {
        let numbers = NO_DROPS.iter().filter_map(|name| self.numbers.get(*name));
        numbers
            .filter(|number| **number < 128)
            .fold(0, |bits, number| bits | 1 << number)
    }

    /// The names of all reasons that lose something.
    pub fn drops(&self) -> impl Iterator<Item = &Arc<str>> {
        self.numbers
            .keys()
            .filter(|name| !NO_DROPS.contains(&name.as_ref()))
    }
}

/// `SKB_DROP_REASON_NETFILTER_DROP` is `netfilter_drop`; bounds and masks of the enum are no reasons.
fn reason_name(member: &str) -> Option<String> {
    let name = member.strip_prefix("SKB_DROP_REASON_").or_else(|| {
        // Two early members came without "DROP_REASON".
        member
            .strip_prefix("SKB_")
            .filter(|name| matches!(*name, "NOT_DROPPED_YET" | "CONSUMED"))
    })?;
    let is_reason = !matches!(name, "MAX" | "SUBSYS_MASK" | "SUBSYS_SHIFT");
    is_reason.then(|| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons() -> DropReasons {
        let members = [
            (0, "SKB_NOT_DROPPED_YET"),
            (1, "SKB_CONSUMED"),
            (2, "SKB_DROP_REASON_NOT_SPECIFIED"),
            (3, "SKB_DROP_REASON_NO_SOCKET"),
            (70, "SKB_DROP_REASON_QUEUE_PURGE"),
            (120, "SKB_DROP_REASON_MAX"),
            (0xffff_0000, "SKB_DROP_REASON_SUBSYS_MASK"),
        ];
        DropReasons::from_members(members.map(|(number, name)| (number, name.to_owned())).to_vec())
    }

    #[test]
    fn reasons_are_named_as_the_kernel_names_them() {
        assert_eq!(&*reasons().name(3), "no_socket");
        assert_eq!(reasons().not_specified(), Some(2));
    }

    #[test]
    fn bounds_and_harmless_reasons_are_no_drops() {
        let names: Vec<_> = reasons().drops().map(ToString::to_string).collect();
        assert_eq!(names, ["no_socket", "not_specified"]);
        assert_eq!(reasons().no_drops(), 1 | 1 << 1 | 1 << 70);
    }

    #[test]
    fn numbers_the_enum_does_not_have_are_told_apart() {
        assert_eq!(&*reasons().name(0x1_0003), "subsystem");
        assert_eq!(&*reasons().name(99), "unknown");
    }

    #[test]
    fn a_kernel_without_reasons_has_one() {
        let reasons = DropReasons::none();
        assert_eq!(&*reasons.name(0), UNSPECIFIED);
        assert_eq!(reasons.not_specified(), None);
        assert_eq!(reasons.drops().count(), 1);
    }
}
