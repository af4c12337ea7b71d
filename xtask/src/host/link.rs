//! What the kernel itself says of interfaces.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Engine, Host, Network};

/// An interface of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The bridge it is a port of.
    pub master: Option<u32>,
}

/// The kernel's own counters of an interface, seen from that interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatistics {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received; a GRO buffer is one.
    pub rx_packets: u64,
    /// Packets the device dropped on reception.
    pub rx_dropped: u64,
    /// Of those received, the ones to many, where the device tells them apart: a veth pair does not.
    pub rx_multicast: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent; a GSO buffer is one.
    pub tx_packets: u64,
    /// Packets the device dropped on sending.
    pub tx_dropped: u64,
}

/// An interface as a container has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLink {
    /// Its name in the container.
    pub name: String,
    /// Its index in the container's namespace.
    pub ifindex: u32,
    /// The index of its peer: a veth's host end, the parent of a macvlan.
    pub peer: u32,
    /// Its hardware address.
    pub address: String,
}

impl Host {
    /// The interfaces in the host's namespace, by index.
    pub fn links(&self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        for (name, directory) in interfaces(&self.outside("/sys/class/net"))? {
            // One that went away since the listing is none.
            let Ok(ifindex) = read(&directory, "ifindex") else {
                continue;
            };
            links.push(Link {
                ifindex,
                name,
                master: read(&directory, "master/ifindex").ok(),
            });
        }
        links.sort_by_key(|link| link.ifindex);
        Ok(links)
    }

    /// What the kernel has counted at the interface with this index.
    pub fn link_statistics(&self, ifindex: u32) -> Result<LinkStatistics> {
        let links = self.links()?;
        let link = links.iter().find(|link| link.ifindex == ifindex);
        let name = &link
            .with_context(|| format!("no interface {ifindex} in host {}", self.name()))?
            .name;
        let directory = self.outside("/sys/class/net").join(name).join("statistics");
        Ok(LinkStatistics {
            rx_bytes: read(&directory, "rx_bytes")?,
            rx_packets: read(&directory, "rx_packets")?,
            rx_dropped: read(&directory, "rx_dropped")?,
            rx_multicast: read(&directory, "multicast")?,
            tx_bytes: read(&directory, "tx_bytes")?,
            tx_packets: read(&directory, "tx_packets")?,
            tx_dropped: read(&directory, "tx_dropped")?,
        })
    }
}

impl Network {
    /// What the kernel has counted at each interface there, by index. sysfs would only tell of the namespace that it was
    /// mounted in.
    pub fn link_statistics(&self) -> Result<BTreeMap<u32, LinkStatistics>> {
        let shown = self.run("ip", ["-statistics", "-json", "link", "show"])?;
        let shown: Vec<Value> = serde_json::from_str(&shown).context("parse what ip shows of interfaces")?;
        shown.iter().map(counted).collect()
    }
}

/// One interface of what `ip -statistics -json link show` prints.
fn counted(link: &Value) -> Result<(u32, LinkStatistics)> {
    let ifindex = link["ifindex"].as_u64().and_then(|index| index.try_into().ok());
    let ifindex = ifindex.with_context(|| format!("no index in {link}"))?;
    let count = |way: &str, what: &str| {
        let count = link["stats64"][way][what].as_u64();
        count.with_context(|| format!("no count of {way} {what} in {link}"))
    };
    let statistics = LinkStatistics {
        rx_bytes: count("rx", "bytes")?,
        rx_packets: count("rx", "packets")?,
        rx_dropped: count("rx", "dropped")?,
        rx_multicast: count("rx", "multicast")?,
        tx_bytes: count("tx", "bytes")?,
        tx_packets: count("tx", "packets")?,
        tx_dropped: count("tx", "dropped")?,
    };
    Ok((ifindex, statistics))
}

impl Engine {
    /// The first process of a running container.
    pub fn process(&self, container: &str) -> Result<u32> {
        let process = self.docker(["inspect", "--format", "{{.State.Pid}}", container])?;
        process.parse().with_context(|| format!("{container} runs"))
    }

    /// The network namespace of a running container. Not to be kept: the namespace has to end with the container.
    pub fn inside(&self, container: &str) -> Result<Network> {
        Network::of_process(self.process(container)?)
    }

    /// The interfaces of a running container, its loopback left out.
    pub fn container_links(&self, container: &str) -> Result<Vec<ContainerLink>> {
        let process = self.process(container)?;
        let root = PathBuf::from(format!("/proc/{process}/root/sys/class/net"));
        let mut links = Vec::new();
        for (name, directory) in interfaces(&root)?.into_iter().filter(|(name, _)| name != "lo") {
            links.push(ContainerLink {
                name,
                ifindex: read(&directory, "ifindex")?,
                peer: read(&directory, "iflink")?,
                address: read(&directory, "address")?,
            });
        }
        links.sort_by_key(|link| link.ifindex);
        Ok(links)
    }

    /// The interface by which a running container is on `network`.
    pub fn container_link(&self, container: &str, network: &str) -> Result<ContainerLink> {
        let networks = self.docker([
            "inspect",
            "--format",
            "{{json .NetworkSettings.Networks}}",
            container,
        ])?;
        let networks: Value = serde_json::from_str(&networks).context("parse docker inspect")?;
        let address = networks[network]["MacAddress"].as_str();
        let address = address.with_context(|| format!("{container} is not on network {network}"))?;
        let mut links = self.container_links(container)?.into_iter();
        let link = links.find(|link| link.address.eq_ignore_ascii_case(address));
        link.with_context(|| format!("{container} has no interface with address {address}"))
    }
}

fn interfaces(class: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(class).with_context(|| format!("list {}", class.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", class.display()))?;
        // bonding_masters is a file among the links.
        if entry.path().join("ifindex").exists() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    Ok(found)
}

fn read<T: FromStr>(directory: &Path, file: &str) -> Result<T> {
    let path = directory.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    text.trim()
        .parse()
        .ok()
        .with_context(|| format!("{}: {}", path.display(), text.trim()))
}
