//! From an interface to its slot.

use dtm_common::{errors::ERROR_NO_SLOT, traffic::Tally};
use dtm_tests::packets::PacketBuilder;

use crate::{
    banks::Growth,
    classifiers::{Classifiers, IFINDEX, PLAIN, PROGRAMS},
};

const ONE: Tally = Tally {
    bytes: 54,
    packets: 1,
    wire_bytes: 54,
};

fn packet() -> Vec<u8> {
    let packet = PacketBuilder::ethernet().ipv4().tcp().build();
    assert_eq!(packet.len(), 54);
    packet
}

#[test]
fn an_interface_without_a_slot_counts_one_error_and_nothing_else() {
    let mut classifiers = Classifiers::load(0);
    for program in PROGRAMS {
        assert_eq!(
            classifiers.run(program, &packet(), PLAIN),
            Growth::of_error(ERROR_NO_SLOT)
        );
    }
}

#[test]
fn a_bucket_of_another_interface_is_not_ours() {
    let mut classifiers = Classifiers::load(0);
    // 65,536 interfaces later the bucket comes round again.
    classifiers.set_bucket(IFINDEX, 0, 0x1_0000 + IFINDEX, 2);
    for program in PROGRAMS {
        assert_eq!(
            classifiers.run(program, &packet(), PLAIN),
            Growth::of_error(ERROR_NO_SLOT)
        );
    }
}

#[test]
fn the_same_index_of_another_namespace_is_not_ours() {
    let mut classifiers = Classifiers::load(0);
    classifiers.set_bucket(IFINDEX, 9, IFINDEX, 2);
    classifiers.set_overflow(8, IFINDEX, 3);
    for program in PROGRAMS {
        assert_eq!(
            classifiers.run(program, &packet(), PLAIN),
            Growth::of_error(ERROR_NO_SLOT)
        );
    }
}

#[test]
fn a_taken_bucket_sends_the_second_interface_to_the_overflow() {
    let mut classifiers = Classifiers::load(0);
    classifiers.set_bucket(IFINDEX, 0, 0x1_0000 + IFINDEX, 2);
    classifiers.set_overflow(0, IFINDEX, 6);
    for program in PROGRAMS {
        assert_eq!(
            classifiers.run(program, &packet(), PLAIN),
            Growth::of(program, 6, ONE)
        );
    }
}

#[test]
fn another_namespace_looks_in_its_own_bucket() {
    let mut classifiers = Classifiers::load(3);
    // 3 · 0x9E37_79B1 ends in 0x6D13.
    classifiers.set_bucket(0x6d13 ^ IFINDEX, 3, IFINDEX, 4);
    classifiers.set_bucket(IFINDEX, 0, IFINDEX, 2);
    for program in PROGRAMS {
        assert_eq!(
            classifiers.run(program, &packet(), PLAIN),
            Growth::of(program, 4, ONE)
        );
    }
}

#[test]
fn the_first_and_the_last_slot_are_slots() {
    for slot in [0, 7] {
        let mut classifiers = Classifiers::load(0);
        classifiers.set_bucket(IFINDEX, 0, IFINDEX, slot);
        for program in PROGRAMS {
            assert_eq!(
                classifiers.run(program, &packet(), PLAIN),
                Growth::of(program, slot, ONE)
            );
        }
    }
}

#[test]
fn a_slot_beyond_the_counters_counts_one_error_and_nothing_else() {
    let mut classifiers = Classifiers::load(0);
    classifiers.set_bucket(IFINDEX, 0, IFINDEX, 1 << 20);
    for program in PROGRAMS {
        assert_eq!(
            classifiers.run(program, &packet(), PLAIN),
            Growth::of_error(ERROR_NO_SLOT)
        );
    }
}
