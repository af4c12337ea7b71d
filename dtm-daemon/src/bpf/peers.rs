//! What the kernel side knows of who is where: sites of slots, addresses, and groups of senders.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::atomic::Ordering,
};

use anyhow::{Context as _, bail};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use dtm_common::views::{PEER_BUCKETS, PEERS_ENTRIES, PeerEntry, PeerKey, SENDERS_ENTRIES, Site, Words};

use super::{
    MapUse,
    kernel::{removed, take},
    mapping::Mapping,
};

/// Who is in which bucket, the one that the bucket itself has first.
type Buckets = std::collections::HashMap<u32, Vec<(PeerKey, u32)>>;

/// Writes only what is other than it was.
pub struct Peers {
    sites: Array<MapData, Site>,
    buckets: Array<MapData, PeerEntry>,
    overflow: HashMap<MapData, PeerKey, u32>,
    senders: HashMap<MapData, u64, u32>,
    levels: Array<MapData, u32>,
    known: Buckets,
    overflowed: u64,
    /// What is in `senders`, with their levels.
    known_senders: BTreeMap<u64, (u32, u32)>,
    known_sites: BTreeMap<u32, Site>,
}

impl Peers {
    /// With whom an earlier process has entered.
    pub(super) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let buckets = take(ebpf, "PEERS")?;
        let mut known = match &buckets {
            Map::Array(map) => entered(map.fd().as_fd()).context("read who has which address")?,
            _ => bail!("PEERS is no array"),
        };
        let buckets: Array<_, PeerEntry> = buckets.try_into()?;
        let overflow: HashMap<_, PeerKey, u32> = take(ebpf, "PEERS_OVERFLOW")?.try_into()?;
        let senders: HashMap<_, u64, u32> = take(ebpf, "SENDERS")?.try_into()?;
        let mut overflowed = 0;
        for (key, number) in overflow.iter().flatten() {
            known.entry(key.bucket()).or_default().push((key, number));
            overflowed += 1;
        }
        // Their levels are told anew with them.
        let known_senders = senders.iter().flatten().map(|(id, number)| (id, (number, 0)));
        Ok(Self {
            known_senders: known_senders.collect(),
            known,
            overflowed,
            known_sites: BTreeMap::new(),
            sites: take(ebpf, "SITES")?.try_into()?,
            levels: take(ebpf, "SENDER_LEVELS")?.try_into()?,
            buckets,
            overflow,
            senders,
        })
    }

    /// Says where a slot's interface is.
    pub fn set_site(&mut self, slot: u32, site: Site) -> Result<(), MapError> {
        if self.known_sites.get(&slot) != Some(&site) {
            self.sites.set(slot, site, 0)?;
            self.known_sites.insert(slot, site);
        }
        Ok(())
    }

    /// Says who has an address; `None`: nobody.
    pub fn set_peer(&mut self, key: PeerKey, number: Option<u32>) -> Result<(), MapError> {
        let bucket = key.bucket();
        let there = self.known.entry(bucket).or_default();
        let before = there.len().saturating_sub(1) as u64;
        let at = there.iter().position(|(known, _number)| *known == key);
        let mut is_other = true;
        match (at, number) {
            (None, None) => is_other = false,
            (Some(at), Some(number)) => is_other = std::mem::replace(&mut there[at].1, number) != number,
            (None, Some(number)) => there.push((key, number)),
            (Some(at), None) => drop(there.remove(at)),
        }
        let there = if there.is_empty() {
            self.known.remove(&bucket).unwrap_or_default()
        } else {
            there.clone()
        };
        if !is_other {
            return Ok(());
        }
        self.overflowed = self.overflowed + there.len().saturating_sub(1) as u64 - before;
        let (first, more) = match there.split_first() {
            Some((first, more)) => (Some(*first), more),
            None => (None, &[][..]),
        };
        // Before the bucket says so; whoever moves up is in both places for a moment.
        for (key, number) in more {
            self.overflow.insert(key, number, 0)?;
        }
        let entry = first.map_or_else(PeerEntry::default, |(key, number)| PeerEntry {
            key,
            number,
            has_more: u32::from(!more.is_empty()),
        });
        self.buckets.set(bucket, entry, 0)?;
        for gone in first.into_iter().map(|(key, _number)| key).chain([key]) {
            if more.iter().all(|(known, _number)| *known != gone) {
                removed(self.overflow.remove(&gone))?;
            }
        }
        Ok(())
    }

    /// Everybody whom the kernel side knows an address of.
    pub fn known(&self) -> impl Iterator<Item = (PeerKey, u32)> {
        self.known.values().flatten().copied()
    }

    /// Says what counts for a control group, which is so many levels below the root; `None`: nothing.
    pub fn set_sender(&mut self, group: u64, sender: Option<(u32, u32)>) -> Result<(), MapError> {
        match sender {
            Some((number, level)) => {
                self.senders.insert(group, number, 0)?;
                self.known_senders.insert(group, (number, level));
            }
            None => {
                if self.known_senders.remove(&group).is_some() {
                    removed(self.senders.remove(&group))?;
                }
            }
        }
        let levels = self.known_senders.values();
        let levels = levels.fold(0, |levels, (_number, level)| levels | 1_u32 << (level & 31));
        self.levels.set(0, levels, 0)
    }

    /// The groups that the kernel side knows.
    pub fn senders(&self) -> Vec<u64> {
        self.known_senders.keys().copied().collect()
    }

    /// How full the maps are.
    pub(super) fn map_use(&self) -> [MapUse; 2] {
        [
            ("peers_overflow", self.overflowed, PEERS_ENTRIES.into()),
            ("senders", self.known_senders.len() as u64, SENDERS_ENTRIES.into()),
        ]
    }
}

/// Whom the buckets have.
fn entered(map: BorrowedFd<'_>) -> io::Result<Buckets> {
    let mapping = Mapping::new(map, PEER_BUCKETS as usize * size_of::<PeerEntry>())?;
    let words = mapping
        .words()
        .chunks_exact(size_of::<PeerEntry>() / size_of::<u64>());
    let mut known = Buckets::new();
    for (bucket, entry) in (0..).zip(words) {
        let [space, high, low, number] = [0, 1, 2, 3].map(|word: usize| entry[word].load(Ordering::Relaxed));
        // The first of two halves in memory.
        let [a, b, c, d, ..] = number.to_ne_bytes();
        let number = u32::from_ne_bytes([a, b, c, d]);
        if number != 0 {
            let address = Words([high, low]);
            known.insert(bucket, vec![(PeerKey { space, address }, number)]);
        }
    }
    Ok(known)
}
