//! The classifiers once more, with constants of their own, over the maps of the first load.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use aya::{
    maps::MapData,
    programs::{SchedClassifier, loaded_programs},
};
use dtm_common::{errors::ERROR_NO_SLOT, index::InterfaceKey, traffic::Tally};
use dtm_daemon::bpf::{Counts, Kernel, Limits, Template};
use dtm_tests::packets::PacketBuilder;
use xtask::host::eventually;

use crate::{
    banks::{Banks, Growth, SLOTS, from_fdinfo, info},
    classifiers::{Gso, IFINDEX, PLAIN, PROGRAMS, context, shortest},
    plain, random, segments,
};

const ONE: Tally = Tally {
    bytes: 54,
    packets: 1,
    wire_bytes: 54,
};

fn packet() -> Vec<u8> {
    PacketBuilder::ethernet().ipv4().tcp().build()
}

/// The loaded kernel side, without what needs the kernel's type information: reading that takes an emulated machine
/// seconds.
pub(crate) fn kernel() -> Kernel {
    load("/nowhere")
}

pub(crate) fn load(btf: &str) -> Kernel {
    Kernel::load(
        Path::new(btf),
        Limits {
            slots: SLOTS,
            // Programs without views: an emulated machine takes its time over each that it loads.
            scopes: false,
            pairs: 0,
            ..Limits::default()
        },
    )
    .expect("the kernel side loads: this suite needs root")
}

/// Both programs of an instance, and the maps that they share with all others.
struct Instance {
    programs: [SchedClassifier; 2],
    banks: Banks,
}

impl Instance {
    fn new(template: &Template, counts: Counts) -> Self {
        let (transmit, receive) = template.classifiers(counts).expect("the verifier takes it again");
        Self {
            banks: Banks::of(&info(&transmit)),
            programs: [transmit, receive].map(|program: OwnedFd| {
                SchedClassifier::from_program_info(info(&program), "".into()).expect("it is a classifier")
            }),
        }
    }

    /// Runs the program of this place in [`PROGRAMS`].
    fn run(&mut self, place: usize, packet: &[u8], gso: Gso) -> Growth {
        let context = context(gso, IFINDEX);
        // Others may have counted since.
        self.banks.growth();
        self.banks.run(&self.programs[place], packet, &context, 1)
    }
}

#[test]
fn an_instance_for_a_slot_counts_into_it_whatever_the_interface() {
    let mut kernel = kernel();
    let template = kernel.template();
    // Neither the slot of the interface in dtm's own namespace, nor that of another's with the number 0.
    kernel
        .enter(InterfaceKey { netns: 0, ifindex: 1 }, 2)
        .expect("room for one");
    for slot in [0, 5, SLOTS - 1] {
        let mut instance = Instance::new(&template, Counts::Slot(slot));
        for (place, program) in PROGRAMS.into_iter().enumerate() {
            assert_eq!(
                instance.run(place, &packet(), PLAIN),
                Growth::of(program, slot, ONE)
            );
        }
    }
}

#[test]
fn an_instance_for_a_namespace_counts_its_interfaces_and_no_others() {
    let mut kernel = kernel();
    let template = kernel.template();
    let mut instance = Instance::new(&template, Counts::Namespace(3));
    let mut other = Instance::new(&template, Counts::Namespace(4));
    let own = InterfaceKey {
        netns: 0,
        ifindex: IFINDEX,
    };
    kernel.enter(own, 2).expect("room for it");
    for place in [0, 1] {
        assert_eq!(
            instance.run(place, &packet(), PLAIN),
            Growth::of_error(ERROR_NO_SLOT),
            "the same index of dtm's own namespace is another interface"
        );
    }
    let there = InterfaceKey {
        netns: 3,
        ifindex: IFINDEX,
    };
    kernel.enter(there, 6).expect("room for it");
    for (place, program) in PROGRAMS.into_iter().enumerate() {
        assert_eq!(instance.run(place, &packet(), PLAIN), Growth::of(program, 6, ONE));
        assert_eq!(
            other.run(place, &packet(), PLAIN),
            Growth::of_error(ERROR_NO_SLOT)
        );
    }
    kernel.leave(there).expect("it was there");
    assert_eq!(instance.run(0, &packet(), PLAIN), Growth::of_error(ERROR_NO_SLOT));
}

#[test]
fn the_first_load_goes_on_beside_its_instances() {
    let mut kernel = kernel();
    let template = kernel.template();
    let key = InterfaceKey {
        netns: 0,
        ifindex: IFINDEX,
    };
    kernel.enter(key, 2).expect("room for it");
    let (transmit, _receive) = kernel.classifiers().expect("they are loaded");
    let first = SchedClassifier::from_program_info(info(&transmit), "".into()).expect("it is a classifier");
    let mut instance = Instance::new(&template, Counts::Slot(7));
    drop(template);
    assert_eq!(
        instance.run(0, &packet(), PLAIN),
        Growth::of("dtm_transmit", 7, ONE)
    );
    let growth = instance.banks.run(&first, &packet(), &context(PLAIN, IFINDEX), 1);
    assert_eq!(growth, Growth::of("dtm_transmit", 2, ONE));
}

#[test]
fn an_instance_counts_odd_and_hostile_packets_as_the_first_load_does() {
    let kernel = kernel();
    let mut instance = Instance::new(&kernel.template(), Counts::Slot(4));
    for (place, program) in PROGRAMS.into_iter().enumerate() {
        for (name, packet, length) in plain::packets() {
            let expected = Growth::of(program, 4, plain::one_packet(length));
            assert_eq!(instance.run(place, &packet.build(), PLAIN), expected, "{name}");
        }
        for case in segments::cases() {
            let found = instance.run(place, &case.packet.build(), case.gso);
            assert_eq!(found, Growth::of(program, 4, case.tally()), "{}", case.name);
        }
    }
    for (number, packet) in random::packets().take(1000).enumerate() {
        let place = number % 2;
        let expected = Growth::of(PROGRAMS[place], 4, plain::one_packet(packet.len() as u64));
        assert_eq!(instance.run(place, &packet, PLAIN), expected, "packet {number}");
    }
    let whole = PacketBuilder::ethernet().ipv6().extension(0, 0).tcp().build();
    for length in shortest(&whole)..whole.len() {
        let expected = Growth::of(PROGRAMS[0], 4, plain::one_packet(length as u64));
        assert_eq!(
            instance.run(0, &whole[..length], PLAIN),
            expected,
            "{length} bytes"
        );
    }
}

#[test]
fn what_cannot_be_counted_is_refused() {
    let kernel = kernel();
    let template = kernel.template();
    for counts in [Counts::Slot(SLOTS), Counts::Slot(u32::MAX), Counts::Namespace(0)] {
        assert!(template.classifiers(counts).is_err(), "{counts:?}");
    }
    assert!(template.cgroup(SLOTS).is_err());
}

#[test]
fn threads_make_instances_at_the_same_time() {
    let kernel = kernel();
    std::thread::scope(|scope| {
        for slot in 0..4 {
            let template: Arc<Template> = kernel.template();
            scope.spawn(move || template.classifiers(Counts::Slot(slot)).expect("an instance"));
        }
    });
}

/// What an instance holds goes with its descriptors.
#[test]
fn an_instance_leaves_nothing_behind() {
    let kernel = kernel();
    let template = kernel.template();
    let open = || {
        std::fs::read_dir("/proc/self/fd")
            .expect("proc is mounted")
            .count()
    };
    let before = open();
    let (transmit, receive) = template.classifiers(Counts::Slot(0)).expect("an instance");
    assert_eq!(open(), before + 2);
    let ids = [&transmit, &receive].map(|program| from_fdinfo(program, "prog_id:"));
    let maps = info(&transmit)
        .map_ids()
        .expect("the kernel tells")
        .expect("some");
    drop((transmit, receive));
    assert_eq!(open(), before);
    // The kernel frees both after RCU grace periods.
    let is_loaded = |id: u64| {
        let mut programs = loaded_programs().filter_map(Result::ok);
        programs.any(|program| u64::from(program.id()) == id)
    };
    let are_gone = || {
        let gone = maps.iter().filter(|id| MapData::from_id(**id).is_err());
        // Of its maps, only the constants were its own.
        Ok((!ids.into_iter().any(is_loaded) && gone.count() == 1).then_some(()))
    };
    eventually(Duration::from_secs(10), "end of an instance's programs", are_gone).expect("they go");
}
