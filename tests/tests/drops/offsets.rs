//! Where fields of the kernel's structures are: as bpftool reads the same type information.

use std::{collections::HashMap, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use dtm_daemon::bpf::KernelTypes;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What each of the programs' constants stands for; `|` between what a field is called on one kernel and another.
const FIELDS: [(&str, &str); 30] = [
    ("SKB_LEN", "sk_buff.len"),
    ("SKB_PROTOCOL", "sk_buff.protocol"),
    ("SKB_DEV", "sk_buff.dev"),
    ("SKB_SK", "sk_buff.sk"),
    ("SKB_HEAD", "sk_buff.head"),
    ("SKB_NETWORK_HEADER", "sk_buff.network_header"),
    ("SKB_TAIL", "sk_buff.tail"),
    ("SKB_END", "sk_buff.end"),
    ("SHINFO_GSO_SEGS", "skb_shared_info.gso_segs"),
    ("DEV_IFINDEX", "net_device.ifindex"),
    ("DEV_NET", "net_device.nd_net.net"),
    ("NET_INUM", "net.ns.inum"),
    ("CGROUP_ROOT", "cgroup.root"),
    ("ROOT_HIERARCHY", "cgroup_root.hierarchy_id"),
    ("CGROUP_NODE", "cgroup.kn"),
    ("NODE_NAME", "kernfs_node.name"),
    ("SOCK_NET", "sock.__sk_common.skc_net.net"),
    ("SOCK_STATE", "sock.__sk_common.skc_state"),
    ("SOCK_LISTENER", "sock.__sk_common.skc_listener"),
    ("SOCK_CGROUP", "sock.sk_cgrp_data.cgroup"),
    ("NODE_ID", "kernfs_node.id"),
    ("NODE_PARENT", "kernfs_node.__parent|kernfs_node.parent"),
    ("SOCK_ERR", "sock.sk_err"),
    ("TCP_SRTT", "tcp_sock.srtt_us"),
    ("TCP_RETRANS", "tcp_sock.total_retrans"),
    ("TCP_TELLS", "tcp_sock.bpf_sock_ops_cb_flags"),
    ("SKB_CONNECTION", "sk_buff._nfct"),
    ("CT_SOURCE", "nf_conn.tuplehash.tuple.src.u3"),
    ("CT_DESTINATION", "nf_conn.tuplehash.tuple.dst.u3"),
    ("CT_FAMILY", "nf_conn.tuplehash.tuple.src.l3num"),
];

/// One type: its kind and name, what it is of, and its members with their types and offsets in bits.
#[derive(Default)]
struct Type {
    kind: String,
    name: String,
    of: u32,
    members: Vec<(String, u32, u32)>,
}

/// What follows `key=` in a line.
fn number(line: &str, key: &str) -> Option<u32> {
    let rest = line.split_once(&format!("{key}="))?.1;
    rest.split(|letter: char| !letter.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn quoted(line: &str) -> String {
    line.split('\'').nth(1).unwrap_or_default().to_owned()
}

fn parse(text: &str) -> HashMap<u32, Type> {
    let mut types = HashMap::<u32, Type>::new();
    let mut last = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix('[') {
            let (id, rest) = rest.split_once("] ").unwrap_or_default();
            last = id.parse().unwrap_or(0);
            let made = Type {
                kind: rest.split(' ').next().unwrap_or_default().to_owned(),
                name: quoted(rest),
                of: number(rest, "type_id").unwrap_or(0),
                members: Vec::new(),
            };
            types.insert(last, made);
        } else if let Some((of, bits)) = number(line, "type_id").zip(number(line, "bits_offset"))
            && let Some(known) = types.get_mut(&last)
        {
            known.members.push((quoted(line), of, bits));
        }
    }
    types
}

/// The type behind names, qualifiers and arrays.
fn behind(types: &HashMap<u32, Type>, mut id: u32) -> Option<&Type> {
    loop {
        let known = types.get(&id)?;
        match known.kind.as_str() {
            "TYPEDEF" | "CONST" | "VOLATILE" | "TYPE_TAG" | "ARRAY" => id = known.of,
            _ => return Some(known),
        }
    }
}

fn member(types: &HashMap<u32, Type>, of: &Type, wanted: &str) -> Option<(u32, u32)> {
    of.members.iter().find_map(|(name, id, bits)| {
        if name == wanted {
            return Some((*id, *bits));
        }
        let inner = behind(types, *id).filter(|_inner| name == "(anon)")?;
        member(types, inner, wanted).map(|(id, more)| (id, bits + more))
    })
}

fn offset(types: &HashMap<u32, Type>, path: &str) -> Option<u32> {
    let mut names = path.split('.');
    let structure = names.next()?;
    let all = types
        .values()
        .filter(|known| known.kind == "STRUCT" && known.name == structure);
    let mut current = all.max_by_key(|known| known.members.len())?;
    let mut bits = 0;
    for name in names {
        let (id, more) = member(types, current, name)?;
        bits += more;
        current = behind(types, id)?;
    }
    Some(bits / 8)
}

#[test]
fn every_offset_is_the_one_that_bpftool_reads() -> Result<()> {
    let output = Command::new("bpftool")
        .args(["btf", "dump", "file", BTF, "format", "raw"])
        .output();
    let output = output.context("start bpftool: cargo xtask setup installs it")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let types = parse(&String::from_utf8_lossy(&output.stdout));
    let read = KernelTypes::read(Path::new(BTF))?;
    for (constant, found) in &read.offsets {
        let (_constant, paths) = FIELDS
            .iter()
            .find(|(known, _paths)| known == constant)
            .with_context(|| format!("{constant} is not looked up here"))?;
        let expected = paths.split('|').find_map(|path| offset(&types, path));
        ensure!(
            expected == Some(*found),
            "{constant} is {found}, and {paths} at {expected:?}"
        );
    }
    // This kernel has everything that may be missing on another.
    for (constant, _path) in FIELDS {
        let has_it = read.offsets.iter().any(|(known, _offset)| *known == constant);
        ensure!(has_it, "{constant} is not looked up");
    }
    Ok(())
}
