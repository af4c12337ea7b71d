//! The kernel side's own maps, filled to the last entry.

use std::path::Path;

use anyhow::{Context as _, Result};
use dtm_common::{
    drops::{ADDRESSES_ENTRIES, Address, NETNS_ENTRIES},
    index::{INDEX_BUCKETS, INDEX_OVERFLOW_ENTRIES, InterfaceKey},
};
use dtm_daemon::{
    bpf::{Kernel, Limits},
    config::DEFAULT_BTF,
};

fn kernel() -> Result<Kernel> {
    let slots = INDEX_OVERFLOW_ENTRIES * 2;
    Kernel::load(
        Path::new(DEFAULT_BTF),
        Limits {
            slots,
            ..Limits::default()
        },
    )
}

/// Entries in use, and the most there can be.
fn used(kernel: &Kernel, map: &str) -> Result<(u64, u64)> {
    let (_name, entries, limit) = kernel
        .map_use(0, 0)
        .find(|(name, ..)| *name == map)
        .with_context(|| format!("no map {map}"))?;
    Ok((entries, limit))
}

#[test]
fn a_full_overflow_of_the_index_refuses_one_more_and_takes_it_when_there_is_room() -> Result<()> {
    let mut kernel = kernel()?;
    // All of one bucket.
    let key = |number: u32| InterfaceKey {
        netns: 0,
        ifindex: 5 + number * INDEX_BUCKETS,
    };
    for number in 0..=INDEX_OVERFLOW_ENTRIES {
        kernel.enter(key(number), number)?;
    }
    let limit = u64::from(INDEX_OVERFLOW_ENTRIES);
    assert_eq!(used(&kernel, "index_overflow")?, (limit, limit));
    let one_more = INDEX_OVERFLOW_ENTRIES + 1;
    assert!(kernel.enter(key(one_more), one_more).is_err());
    assert_eq!(
        used(&kernel, "index_overflow")?,
        (limit, limit),
        "refused, not counted"
    );
    // Another bucket is not concerned.
    kernel.enter(InterfaceKey { netns: 0, ifindex: 6 }, one_more)?;
    kernel.leave(key(7))?;
    assert_eq!(used(&kernel, "index_overflow")?, (limit - 1, limit));
    kernel.enter(key(one_more), one_more + 1)?;
    assert_eq!(used(&kernel, "index_overflow")?, (limit, limit));
    Ok(())
}

#[test]
fn full_maps_of_owners_refuse_one_more_and_still_change_what_they_have() -> Result<()> {
    let mut kernel = kernel()?;
    for inode in 1..=NETNS_ENTRIES {
        kernel.owners.set_netns(inode, Some(inode))?;
    }
    assert!(kernel.owners.set_netns(NETNS_ENTRIES + 1, Some(1)).is_err());
    kernel.owners.set_netns(1, Some(2))?;
    let limit = u64::from(NETNS_ENTRIES);
    assert_eq!(used(&kernel, "netns_owners")?, (limit, limit));
    kernel.owners.set_netns(1, None)?;
    kernel.owners.set_netns(NETNS_ENTRIES + 1, Some(1))?;
    assert_eq!(used(&kernel, "netns_owners")?, (limit, limit));

    let address = |number: u32| Address::v4(number.to_be_bytes());
    for number in 0..ADDRESSES_ENTRIES {
        kernel.owners.set_address(address(number), Some(1))?;
    }
    assert!(
        kernel
            .owners
            .set_address(address(ADDRESSES_ENTRIES), Some(1))
            .is_err()
    );
    let limit = u64::from(ADDRESSES_ENTRIES);
    assert_eq!(used(&kernel, "address_owners")?, (limit, limit));
    kernel.owners.set_address(address(0), None)?;
    kernel.owners.set_address(address(ADDRESSES_ENTRIES), Some(1))?;
    assert_eq!(used(&kernel, "address_owners")?, (limit, limit));
    Ok(())
}
