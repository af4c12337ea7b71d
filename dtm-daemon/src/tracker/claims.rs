//! Which container an address or a namespace stands for on the kernel side, when several may claim it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Claims on keys by owners. A key claimed by two owners stands for neither: a wrong name is worse than none.
#[derive(Debug)]
pub(crate) struct Claims<K> {
    /// How often each owner claims the key: a container may have an address on two interfaces.
    claims: HashMap<K, BTreeMap<u32, u32>>,
}

impl<K: Copy + Eq + Hash> Claims<K> {
    pub(crate) fn new() -> Self {
        Self {
            claims: HashMap::new(),
        }
    }

    /// Adds a claim and returns whom the key stands for now.
    pub(crate) fn add(&mut self, key: K, owner: u32) -> Option<u32> {
        *self.claims.entry(key).or_default().entry(owner).or_default() += 1;
        self.owner(key)
    }

    /// Takes one claim back and returns whom the key stands for now.
    pub(crate) fn remove(&mut self, key: K, owner: u32) -> Option<u32> {
        if let Some(owners) = self.claims.get_mut(&key) {
            if let Some(count) = owners.get_mut(&owner) {
                *count -= 1;
                if *count == 0 {
                    owners.remove(&owner);
                }
            }
            if owners.is_empty() {
                self.claims.remove(&key);
            }
        }
        self.owner(key)
    }

    /// Whom the key stands for.
    pub(crate) fn owner(&self, key: K) -> Option<u32> {
        let owners = self.claims.get(&key)?;
        (owners.len() == 1)
            .then(|| owners.first_key_value().map(|(owner, _count)| *owner))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_two_owners_claim_stands_for_neither_until_one_lets_go() {
        let mut claims = Claims::new();
        assert_eq!(claims.add("10.0.0.2", 1), Some(1));
        assert_eq!(claims.add("10.0.0.2", 2), None);
        assert_eq!(claims.remove("10.0.0.2", 1), Some(2));
        assert_eq!(claims.remove("10.0.0.2", 2), None);
    }

    #[test]
    fn an_owner_that_claims_twice_keeps_the_key_when_one_claim_goes() {
        let mut claims = Claims::new();
        claims.add(7, 1);
        claims.add(7, 1);
        assert_eq!(claims.remove(7, 1), Some(1));
    }
}
