//! A map that knows which of its entries may have changed since it was last asked.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet, hash_map},
    hash::Hash,
};

/// How much room a map keeps, in what it has: enough that hosts whose containers come and go do not make it anew each time.
const ROOM: usize = 4;

/// Entries that there will be soon in a map that has none.
const SOME: usize = 4;

/// Every way to change an entry notes it: nobody has to think of that.
#[derive(Debug)]
pub(crate) struct Noted<K, V> {
    entries: HashMap<K, V>,
    changed: HashSet<K>,
}

impl<K, V> Default for Noted<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            changed: HashSet::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V> Noted<K, V> {
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        self.changed.insert(key.clone());
        Some(entry)
    }

    pub(crate) fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.entries.contains_key(key)
    }

    pub(crate) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.changed.insert(key.clone());
        self.entries.entry(key).or_insert_with(make)
    }

    /// An entry to change what is not to be written down of it.
    pub(crate) fn unnoted(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.entries.entry(key).or_default()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.changed.insert(key.clone());
        self.entries.insert(key, value);
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (key, value) = self.entries.remove_entry(key)?;
        self.changed.insert(key);
        Some(value)
    }

    /// Takes out those for which `is_over`.
    pub(crate) fn take_if(&mut self, is_over: impl Fn(&K, &V) -> bool) -> Vec<(K, V)> {
        let taken: Vec<_> = self
            .entries
            .extract_if(|key, value| is_over(key, value))
            .collect();
        self.changed.extend(taken.iter().map(|(key, _value)| key.clone()));
        taken
    }

    /// Gives back most of the room that nothing is in. A map keeps what it once needed, and one that entries come to and leave
    /// grows although there are never more of them: by twice, whenever the places of those that left fill it up.
    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to(ROOM * (self.entries.len() + SOME));
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> hash_map::Iter<'_, K, V> {
        self.entries.iter()
    }

    pub(crate) fn keys(&self) -> hash_map::Keys<'_, K, V> {
        self.entries.keys()
    }

    pub(crate) fn values(&self) -> hash_map::Values<'_, K, V> {
        self.entries.values()
    }

    /// Whether it is other than when it was last asked.
    pub(crate) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The keys of what may have changed since the last time, what is gone included.
    pub(crate) fn take_changed(&mut self) -> HashSet<K> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn into_values(self) -> hash_map::IntoValues<K, V> {
        self.entries.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_when_entries_are_gone() {
        let mut noted: Noted<u32, u32> = Noted::default();
        for key in 0..1000 {
            noted.insert(key, key);
        }
        let full = noted.entries.capacity();
        noted.shrink();
        assert_eq!(noted.entries.capacity(), full, "all of it is in use");
        noted.take_if(|key, _value| *key > 0);
        noted.shrink();
        assert!(noted.entries.capacity() < full / 10);
        assert_eq!(noted.get(&0), Some(&0));
    }

    #[test]
    fn every_change_is_noted_once_and_looking_is_none() {
        let mut noted = Noted::default();
        noted.insert(1, "one");
        noted.insert(2, "two");
        *noted.get_or_insert_with(3, || "three") = "3";
        assert_eq!(noted.take_changed(), HashSet::from([1, 2, 3]));
        assert_eq!(
            (noted.get(&1), noted.values().count(), noted.contains_key(&4)),
            (Some(&"one"), 3, false)
        );
        assert_eq!((noted.remove(&4), noted.get_mut(&4)), (None, None));
        assert!(!noted.is_changed());
        *noted.get_mut(&1).unwrap() = "1";
        assert_eq!(noted.remove(&2), Some("two"));
        assert_eq!(noted.take_if(|_key, value| *value == "3"), [(3, "3")]);
        assert_eq!(noted.take_changed(), HashSet::from([1, 2, 3]));
        assert_eq!(noted.len(), 1);
    }
}
