//! The matrix: who sends to whom, in names.
//!
//! The kernel side knows lives of interfaces by their numbers; here they have their containers' names, those they had when
//! they were named. Pairs of one pair of names are one series: what ended is added to what goes on. A pair's place in the
//! kernel's map is given back when its series has lingered, or has another pair. As long as there are containers of both
//! names a series that has lingered only rests: it is not shown, and comes back with all it has moved.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use dtm_common::{
    flows::FlowKey,
    views::{PEER_HOST, PEER_INTERNET, PEER_MULTICAST, PEER_OTHER, PEER_PRIVATE, Volume},
};

use super::{FlowSnapshot, Tracker, noted::Noted, sites::number, slots::REST};
use crate::bpf::Former;

/// How often the kernel's map is looked through for pairs that are over; a scrape looks, too.
const LOOK: Duration = Duration::from_secs(5);

/// The names of a pair.
pub(super) type Names = (Arc<str>, Arc<str>);

/// Whose a number is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// The name that the container had when this life of its interface was named.
    pub(super) name: Arc<str>,
    /// Since when the interface is gone.
    pub(super) ended: Option<Instant>,
}

/// All pairs of one pair of names.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// What pairs have moved that are not in the kernel's map any more.
    pub(super) past: Volume,
    /// What those in the map say.
    live: BTreeMap<FlowKey, Volume>,
    /// When it was last seen to move something.
    moved: Option<Instant>,
}

/// Everything that is known of the matrix.
#[derive(Debug, Default)]
pub(super) struct Flows {
    pub(super) ends: Noted<u32, End>,
    pub(super) series: Noted<Names, Series>,
    /// Pairs whose volume, this, is in a series' past, and that are to be removed from the kernel's map once the journal
    /// says so.
    pub(super) folded: BTreeMap<FlowKey, Volume>,
    /// What found no room, and what had found none in an earlier dtm's map.
    rest: Volume,
    pub(super) past_rest: Volume,
    /// Entries of the kernel's map, beside the one for the rest.
    pub(super) entries: u64,
    looked: Option<Instant>,
}

impl Series {
    /// One that has moved this before.
    pub(super) fn restored(past: Volume, now: Instant) -> Self {
        Self {
            past,
            live: BTreeMap::new(),
            moved: Some(now),
        }
    }

    /// All it has moved.
    fn total(&self) -> Volume {
        self.live.values().copied().chain([self.past]).sum()
    }

    /// Whether it has not moved anything for as long.
    fn is_still(&self, now: Instant, linger: Duration) -> bool {
        let since = self.moved.map(|moved| now.saturating_duration_since(moved));
        since.is_none_or(|since| since >= linger)
    }

    /// Whether it has lingered and has no place any more.
    fn rests(&self, now: Instant, linger: Duration) -> bool {
        self.live.is_empty() && self.is_still(now, linger)
    }
}

/// The name of a number that stands for no interface.
fn pseudo(number: u32) -> Option<&'static str> {
    match number {
        PEER_HOST => Some("@host"),
        PEER_PRIVATE => Some("@private"),
        PEER_INTERNET => Some("@internet"),
        PEER_MULTICAST => Some("@multicast"),
        PEER_OTHER => Some("@other"),
        _ => None,
    }
}

impl Flows {
    /// Takes in whose a number is.
    pub(super) fn name(&mut self, number: u32, name: &Arc<str>) {
        let name = Arc::clone(name);
        self.ends.insert(number, End { name, ended: None });
    }

    /// Takes in that an interface is gone.
    pub(super) fn end(&mut self, number: u32, now: Instant) {
        if self.ends.get(&number).is_some_and(|end| end.ended.is_none())
            && let Some(end) = self.ends.get_mut(&number)
        {
            end.ended = Some(now);
        }
    }

    fn name_of(&self, number: u32) -> Option<Arc<str>> {
        match pseudo(number) {
            Some(name) => Some(Arc::from(name)),
            None => self.ends.get(&number).map(|end| Arc::clone(&end.name)),
        }
    }

    /// Whether nothing is counted for a pair any more.
    fn is_over(&self, key: FlowKey, now: Instant) -> bool {
        [key.source, key.destination].into_iter().any(|number| {
            let ended = self.ends.get(&number).and_then(|end| end.ended);
            ended.is_some_and(|ended| now.saturating_duration_since(ended) >= REST)
        })
    }

    /// Takes in what the kernel's map says, and returns the numbers that have no name, with their pairs.
    fn take_in(&mut self, mut volumes: HashMap<FlowKey, Volume>, now: Instant) -> Vec<(u32, FlowKey)> {
        self.rest = volumes.remove(&FlowKey::REST).unwrap_or_default();
        let mut nameless = Vec::new();
        for (key, volume) in volumes {
            let (source, destination) = (self.name_of(key.source), self.name_of(key.destination));
            nameless.extend(source.is_none().then_some((key.source, key)));
            nameless.extend(destination.is_none().then_some((key.destination, key)));
            let Some(names) = source.zip(destination) else {
                continue;
            };
            let known = self.series.get(&names).and_then(|series| series.live.get(&key));
            if known == Some(&volume) || self.folded.contains_key(&key) {
                continue;
            }
            let series = self.series.unnoted(names);
            series.moved = Some(now);
            series.live.insert(key, volume);
        }
        nameless
    }

    /// Adds pairs that are over to what is kept, where their series has another one: these need no place of their own.
    fn fold(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (names, series) in self.series.iter() {
            let over: Vec<_> = series
                .live
                .keys()
                .copied()
                .filter(|key| self.is_over(*key, now))
                .collect();
            let keeps_one = over.len() == series.live.len();
            due.extend(
                over.into_iter()
                    .skip(usize::from(keeps_one))
                    .map(|key| (names.clone(), key)),
            );
        }
        for (names, key) in due {
            if let Some(series) = self.series.get_mut(&names)
                && let Some(volume) = series.live.remove(&key)
            {
                series.past += volume;
                self.folded.insert(key, volume);
            }
        }
    }

    /// Keeps what another map has of a pair.
    fn keep(&mut self, key: FlowKey, volume: Volume) {
        if key == FlowKey::REST {
            self.past_rest += volume;
            return;
        }
        let Some(names) = self.name_of(key.source).zip(self.name_of(key.destination)) else {
            return;
        };
        if let Some(series) = self.series.get_mut(&names)
            && let Some(live) = series.live.get_mut(&key)
        {
            series.past += volume;
            live.bytes = live.bytes.saturating_sub(volume.bytes);
            live.packets = live.packets.saturating_sub(volume.packets);
        }
    }

    /// Lays series to rest that are over and have lingered, and, where `places` are wanted, the stillest of those that
    /// have been still for as long. Those of which a name is not `known` any more are taken out, and so are the stillest
    /// of more than `most` that rest. Returns the pairs of what is taken out.
    fn expire(
        &mut self,
        now: Instant,
        linger: Duration,
        (places, most): (usize, usize),
        known: &HashSet<&str>,
    ) -> Vec<FlowKey> {
        let is_known = |name: &str| name.starts_with('@') || known.contains(name);
        let (mut gone, mut quiet, mut at_rest, mut tired) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let still = self
            .series
            .iter()
            .filter(|(_names, series)| series.is_still(now, linger));
        for (names, series) in still {
            if !series.live.keys().all(|key| self.is_over(*key, now)) {
                quiet.push((series.moved, names.clone()));
            } else if !is_known(&names.0) || !is_known(&names.1) {
                gone.push(names.clone());
            } else if series.rests(now, linger) {
                at_rest.push((series.moved, names.clone()));
            } else {
                tired.push((series.moved, names.clone()));
            }
        }
        quiet.sort();
        tired.extend(quiet.into_iter().take(places));
        for (_moved, names) in &tired {
            self.lay_to_rest(names);
        }
        at_rest.extend(tired);
        at_rest.sort();
        let too_many = at_rest.len().saturating_sub(most);
        gone.extend(at_rest.into_iter().take(too_many).map(|(_moved, names)| names));
        let gone = gone.into_iter().filter_map(|names| self.series.remove(&names));
        gone.flat_map(|series| series.live.into_keys()).collect()
    }

    /// Adds all pairs of a series to what is kept.
    fn lay_to_rest(&mut self, names: &Names) {
        if let Some(series) = self.series.get_mut(names) {
            let live = std::mem::take(&mut series.live);
            series.past += live.values().copied().sum();
            self.folded.extend(live);
        }
    }

    /// Takes in what a pair that is in a series' past had moved when it was removed.
    pub(super) fn removed(&mut self, key: FlowKey, folded: Volume, last: Volume) {
        let since = Volume {
            bytes: last.bytes.saturating_sub(folded.bytes),
            packets: last.packets.saturating_sub(folded.packets),
        };
        let names = self.name_of(key.source).zip(self.name_of(key.destination));
        if since != Volume::default()
            && let Some(series) = names.and_then(|names| self.series.get_mut(&names))
        {
            series.past += since;
            series.moved = Some(Instant::now());
        }
    }

    /// Forgets the names of what is gone and has no pair.
    fn forget_ends(&mut self, now: Instant) {
        let pairs = self.series.values().flat_map(|series| series.live.keys());
        let used: HashSet<u32> = pairs.flat_map(|key| [key.source, key.destination]).collect();
        // A late program run may still enter a pair.
        let is_over = |ended: Instant| now.saturating_duration_since(ended) >= 2 * LOOK;
        self.ends
            .take_if(|number, end| end.ended.is_some_and(is_over) && !used.contains(number));
    }

    /// Forgets everything.
    fn forget(&mut self) {
        self.ends.take_if(|_number, _end| true);
        self.series.take_if(|_names, _series| true);
        self.past_rest = Volume::default();
    }

    /// As a scrape shows it, sorted.
    pub(super) fn snapshot(&self, now: Instant, linger: Duration) -> Vec<FlowSnapshot> {
        let awake = self
            .series
            .iter()
            .filter(|(_names, series)| !series.rests(now, linger));
        let mut flows: Vec<_> = awake
            .map(|((source, destination), series)| FlowSnapshot {
                source: Arc::clone(source),
                destination: Arc::clone(destination),
                volume: series.total(),
            })
            .collect();
        let other: Arc<str> = Arc::from("@other");
        flows.push(FlowSnapshot {
            source: Arc::clone(&other),
            destination: other,
            volume: [self.rest, self.past_rest].into_iter().sum(),
        });
        flows.sort_by(|one, another| {
            (&one.source, &one.destination).cmp(&(&another.source, &another.destination))
        });
        flows
    }
}

impl Tracker {
    /// Reads the matrix.
    pub(super) fn read_flows(&mut self, now: Instant) {
        let Some(map) = &self.kernel.flows else {
            return;
        };
        let mut volumes = match map.read() {
            Ok(volumes) => volumes,
            Err(error) => {
                tracing::warn!(%error, "cannot read the map of flows");
                return;
            }
        };
        let own = volumes.len() as u64;
        for (key, volume) in self.former_flows() {
            *volumes.entry(key).or_default() += volume;
        }
        self.flows.entries = own.saturating_sub(1);
        let nameless = self.flows.take_in(volumes, now);
        self.remove_nobodys(nameless);
    }

    /// Removes pairs of interfaces that are no container's; the others may get a name yet.
    fn remove_nobodys(&mut self, nameless: Vec<(u32, FlowKey)>) {
        if nameless.is_empty() {
            return;
        }
        let living = self.interfaces.values().map(|interface| interface.generation);
        let orphans = self.orphans.iter().map(|orphan| orphan.generation);
        let pending: HashSet<u32> = living.chain(orphans).map(number).collect();
        let nobodys = nameless
            .into_iter()
            .filter(|(number, _key)| !pending.contains(number));
        self.remove_flows(nobodys.map(|(_number, key)| key));
    }

    /// What an earlier dtm's map says, while it is of use.
    fn former_flows(&self) -> HashMap<FlowKey, Volume> {
        let former = self.former.as_ref().map(Former::flows);
        former
            .unwrap_or_else(|| Ok(HashMap::new()))
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read what an earlier dtm has counted of flows");
                HashMap::new()
            })
    }

    /// Keeps what an earlier dtm's map says, which is about to go.
    pub(super) fn take_former_flows(&mut self, now: Instant) {
        self.read_flows(now);
        for (key, volume) in self.former_flows() {
            self.flows.keep(key, volume);
        }
    }

    /// Gives places back from time to time.
    pub(super) fn keep_flows(&mut self, now: Instant) {
        let is_due = |looked: Instant| now.saturating_duration_since(looked) >= LOOK;
        if self.kernel.flows.is_none() {
            // Of no use, and so is what an earlier dtm knew.
            self.flows.forget();
            return;
        }
        if !self.flows.looked.is_none_or(is_due) {
            return;
        }
        self.flows.looked = Some(now);
        self.read_flows(now);
        // What is in another map cannot be taken out of it.
        if self.former.is_some() {
            return;
        }
        self.flows.fold(now);
        let limit = u64::from(self.kernel.limits.pairs);
        // A tenth is to be free for whoever comes.
        let wanted = self.flows.entries.saturating_sub(limit - limit / 10) as usize;
        let containers = self.containers.iter();
        let known = containers.map(|tracked| &*tracked.container.name).collect();
        let over = self
            .flows
            .expire(now, self.linger, (wanted, limit as usize), &known);
        self.remove_flows(over);
        self.flows.forget_ends(now);
    }

    /// Removes pairs from the kernel's map that are in their series' past, and keeps what they moved since they are.
    pub(super) fn remove_folded_flows(&mut self, folded: BTreeMap<FlowKey, Volume>) {
        for (key, volume) in folded {
            let last = match self.kernel.flows.as_mut().map(|map| map.take(&key)) {
                Some(Ok(last)) => last,
                Some(Err(error)) => {
                    self.count_map_error("flows", &error);
                    continue;
                }
                None => continue,
            };
            self.flows.removed(key, volume, last);
        }
    }

    /// Removes pairs from the kernel's map of which nothing is shown any more.
    pub(super) fn remove_flows(&mut self, keys: impl IntoIterator<Item = FlowKey>) {
        let Some(map) = &mut self.kernel.flows else {
            return;
        };
        let failed = keys.into_iter().filter_map(|key| map.remove(&key).err()).last();
        if let Some(error) = failed {
            self.count_map_error("flows", &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_mins(5);

    fn key(source: u32, destination: u32) -> FlowKey {
        FlowKey { source, destination }
    }

    fn bytes(volumes: &[(FlowKey, u64)]) -> HashMap<FlowKey, Volume> {
        let volume = |(key, bytes): &(FlowKey, u64)| {
            let volume = Volume {
                bytes: *bytes,
                packets: 1,
            };
            (*key, volume)
        };
        volumes.iter().map(volume).collect()
    }

    fn shown(flows: &Flows, now: Instant) -> Vec<(String, u64)> {
        let flows = flows.snapshot(now, LINGER).into_iter();
        flows
            .map(|flow| (format!("{} {}", flow.source, flow.destination), flow.volume.bytes))
            .collect()
    }

    fn named(names: &[(u32, &str)]) -> Flows {
        let mut flows = Flows::default();
        for (number, name) in names {
            flows.name(*number, &Arc::from(*name));
        }
        flows
    }

    #[test]
    fn what_ended_is_added_to_what_goes_on_under_its_names_and_gives_its_place_back() {
        let (mut flows, start) = (named(&[(1, "web"), (2, "db")]), Instant::now());
        flows.take_in(bytes(&[(key(1, 2), 10)]), start);
        flows.end(2, start);
        flows.fold(start + REST);
        assert!(flows.folded.is_empty(), "its place is its series'");
        flows.name(3, &Arc::from("db"));
        let both = bytes(&[(key(1, 2), 10), (key(1, 3), 5)]);
        flows.take_in(both.clone(), start);
        flows.fold(start + REST);
        assert!(flows.folded.keys().eq([&key(1, 2)]));
        // It is still in the map until the journal has it.
        flows.take_in(both, start);
        assert_eq!(
            shown(&flows, start),
            [("@other @other".to_owned(), 0), ("web db".to_owned(), 15)]
        );
    }

    #[test]
    fn a_series_rests_when_it_has_lingered_or_its_place_is_wanted_and_goes_with_its_names() {
        let (mut flows, start) = (named(&[(1, "web"), (2, "db"), (3, "gone")]), Instant::now());
        let all = [(key(1, 2), 1), (key(1, 3), 2), (key(PEER_HOST, 1), 3)];
        let known = HashSet::from(["web", "db"]);
        flows.take_in(bytes(&all), start);
        flows.end(3, start);
        let (half, whole) = (start + LINGER / 2, start + LINGER);
        assert!(flows.expire(half, LINGER, (9, 9), &known).is_empty());
        assert_eq!(flows.expire(whole, LINGER, (0, 9), &known), [key(1, 3)]);
        flows.take_in(bytes(&[(key(1, 2), 4)]), whole);
        assert!(flows.expire(whole, LINGER, (1, 9), &known).is_empty());
        assert!(
            flows.folded.keys().eq([&key(PEER_HOST, 1)]),
            "the stillest, and none that moves"
        );
        assert!(!shown(&flows, whole).contains(&("@host web".to_owned(), 3)));
        flows.forget_ends(whole);
        assert!(flows.ends.get(&3).is_none() && flows.ends.get(&2).is_some());
        // What was counted between the two is not lost, and nothing is forgotten when it goes on.
        let folded = std::mem::take(&mut flows.folded);
        let late = Volume { bytes: 8, packets: 2 };
        flows.removed(key(PEER_HOST, 1), folded[&key(PEER_HOST, 1)], late);
        flows.take_in(bytes(&[(key(PEER_HOST, 1), 1)]), whole);
        assert!(shown(&flows, whole).contains(&("@host web".to_owned(), 9)));
    }

    #[test]
    fn no_more_series_rest_than_there_may_be_and_none_without_its_container() {
        let (mut flows, start) = (named(&[(1, "web"), (2, "db")]), Instant::now());
        flows.take_in(bytes(&[(key(1, 2), 1)]), start);
        flows.take_in(bytes(&[(key(2, 1), 2)]), start + LINGER / 2);
        flows.end(1, start);
        let known = HashSet::from(["web", "db"]);
        let after = start + 2 * LINGER;
        assert!(flows.expire(after, LINGER, (0, 1), &known).is_empty());
        let left = |flows: &Flows| {
            flows
                .series
                .iter()
                .map(|(names, _series)| names.0.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(left(&flows), ["db"], "the stillest has gone");
        assert!(
            flows
                .expire(after, LINGER, (0, 1), &HashSet::from(["db"]))
                .is_empty()
        );
        assert!(left(&flows).is_empty());
    }

    #[test]
    fn what_another_map_had_is_kept_once() {
        let (mut flows, start) = (named(&[(1, "web")]), Instant::now());
        // 7 in the other map, 3 in this one.
        flows.take_in(bytes(&[(key(1, PEER_INTERNET), 10), (FlowKey::REST, 4)]), start);
        for (key, volume) in bytes(&[(key(1, PEER_INTERNET), 7), (FlowKey::REST, 4)]) {
            flows.keep(key, volume);
        }
        flows.take_in(bytes(&[(key(1, PEER_INTERNET), 3)]), start);
        assert_eq!(
            shown(&flows, start),
            [("@other @other".to_owned(), 4), ("web @internet".to_owned(), 10)]
        );
    }

    #[test]
    fn numbers_without_a_name_are_told_of_and_nothing_is_kept_where_nothing_is_counted() {
        let (mut flows, start) = (named(&[(1, "web")]), Instant::now());
        let nameless = flows.take_in(bytes(&[(key(1, 9), 1), (key(1, PEER_HOST), 1)]), start);
        assert_eq!(nameless, [(9, key(1, 9))]);
        flows.forget();
        assert_eq!((flows.ends.len(), flows.series.len()), (0, 0));
    }
}
