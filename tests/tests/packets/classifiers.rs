//! The classifiers, loaded for test runs, and the counters before and after each.

use std::os::unix::fs::MetadataExt as _;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, PerCpuArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
    util::nr_cpus,
};
use dtm_common::{
    errors::ERROR_KINDS,
    index::{IndexEntry, InterfaceKey},
    traffic::{SlotCounters, Tally},
};

/// Slots of a bank. Few, so that every one of them is looked at after every run.
pub(crate) const SLOTS: u32 = 8;
/// The loopback interface: every network namespace has it, and a test run needs an interface that exists.
pub(crate) const IFINDEX: u32 = 1;
/// The slot [`Classifiers::with_slot`] gives it.
pub(crate) const SLOT: u32 = 5;

/// `TC_ACT_UNSPEC`: the next program decides.
const UNSPECIFIED: i32 = -1;

/// Both programs.
pub(crate) const PROGRAMS: [&str; 2] = ["dtm_transmit", "dtm_receive"];

/// What a run is told about the buffer beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gso {
    pub(crate) segs: u32,
    pub(crate) size: u32,
}

/// A plain packet.
pub(crate) const PLAIN: Gso = Gso { segs: 0, size: 0 };

/// The shortest piece of `frame` that the kernel takes for a test run: it wants a whole IP header directly behind an
/// Ethernet header. Behind a tag it takes anything.
pub(crate) fn shortest(frame: &[u8]) -> usize {
    match frame[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => 14,
    }
}

/// Growth of the counters in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Slot and growth of every entry of every bank that changed.
    pub(crate) slots: Vec<(u32, SlotCounters)>,
    /// Growth of each error, over all CPUs.
    pub(crate) errors: [u64; ERROR_KINDS as usize],
}

impl Growth {
    /// One slot, one direction, no errors.
    pub(crate) fn of(program: &str, slot: u32, tally: Tally) -> Self {
        let counters = match program {
            "dtm_transmit" => SlotCounters {
                transmit: tally,
                ..SlotCounters::default()
            },
            _ => SlotCounters {
                receive: tally,
                ..SlotCounters::default()
            },
        };
        Self {
            slots: vec![(slot, counters)],
            errors: [0; ERROR_KINDS as usize],
        }
    }

    /// Nothing but one error.
    pub(crate) fn of_error(kind: u32) -> Self {
        Self::default().and_error(kind)
    }

    /// One more error.
    pub(crate) fn and_error(mut self, kind: u32) -> Self {
        self.errors[kind as usize] += 1;
        self
    }
}

/// The loaded programs and their maps.
pub(crate) struct Classifiers {
    ebpf: Ebpf,
    /// Every entry of `COUNTERS` at the last look.
    counters: Vec<SlotCounters>,
    /// `ERRORS` at the last look, over all CPUs.
    errors: [u64; ERROR_KINDS as usize],
}

impl Classifiers {
    /// With no interface entered, as if in namespace number `netns`.
    pub(crate) fn load(netns: u32) -> Self {
        let user = std::fs::metadata("/proc/self").expect("proc is mounted").uid();
        assert_eq!(user, 0, "this suite loads BPF programs: run it as root");
        let cpus = u32::try_from(nr_cpus().expect("the number of CPUs")).expect("few CPUs");
        let mut ebpf = EbpfLoader::new()
            .override_global("SLOTS", &SLOTS, true)
            .override_global("NETNS", &netns, true)
            .map_max_entries("COUNTERS", cpus * SLOTS)
            .load(dtm_daemon::bpf::OBJECT)
            .expect("the kernel side loads");
        for name in PROGRAMS {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .expect("the program is in the object")
                .try_into()
                .expect("it is a classifier");
            program.load().expect("the verifier takes it");
        }
        Self {
            ebpf,
            counters: vec![SlotCounters::default(); (cpus * SLOTS) as usize],
            errors: [0; ERROR_KINDS as usize],
        }
    }

    /// In namespace 0, with [`IFINDEX`] in slot [`SLOT`].
    pub(crate) fn with_slot() -> Self {
        let mut classifiers = Self::load(0);
        classifiers.set_bucket(IFINDEX, 0, IFINDEX, SLOT);
        classifiers
    }

    /// Writes one bucket of the index.
    pub(crate) fn set_bucket(&mut self, bucket: u32, netns: u32, ifindex: u32, slot: u32) {
        let map = self.ebpf.map_mut("INDEX").expect("the map is in the object");
        let mut index: Array<_, IndexEntry> = map.try_into().expect("an array");
        let key = InterfaceKey { netns, ifindex };
        index
            .set(bucket, IndexEntry { key, slot }, 0)
            .expect("the bucket exists");
    }

    /// Writes one entry of the index's overflow.
    pub(crate) fn set_overflow(&mut self, netns: u32, ifindex: u32, slot: u32) {
        let map = self
            .ebpf
            .map_mut("INDEX_OVERFLOW")
            .expect("the map is in the object");
        let mut overflow: HashMap<_, InterfaceKey, u32> = map.try_into().expect("a hash");
        overflow
            .insert(InterfaceKey { netns, ifindex }, slot, 0)
            .expect("room for it");
    }

    /// Runs `program` once over `packet`, checks its verdict and tells what grew.
    pub(crate) fn run(&mut self, program: &str, packet: &[u8], gso: Gso) -> Growth {
        self.run_times(program, packet, gso, 1)
    }

    /// As [`run`](Self::run), `times` over on one CPU.
    pub(crate) fn run_times(&mut self, program: &str, packet: &[u8], gso: Gso, times: u32) -> Growth {
        let context = context(gso);
        let loaded: &SchedClassifier = self
            .ebpf
            .program(program)
            .expect("the program is in the object")
            .try_into()
            .expect("it is a classifier");
        let mut untouched = vec![0; packet.len()];
        let result = loaded
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut untouched),
                ctx_in: Some(&context),
                repeat: times,
                ..TestRunOptions::default()
            })
            .expect("the kernel runs it");
        assert_eq!(
            result.return_value.cast_signed(),
            UNSPECIFIED,
            "{program} decides about a packet"
        );
        assert_eq!(untouched, packet, "{program} changes a packet");
        self.growth()
    }

    /// What grew since the last look.
    fn growth(&mut self) -> Growth {
        let (counters, errors) = (self.read_counters(), self.read_errors());
        let mut growth = Growth::default();
        for (index, (before, after)) in self.counters.iter().zip(&counters).enumerate() {
            if before != after {
                let slot = u32::try_from(index).expect("few slots") % SLOTS;
                growth.slots.push((slot, difference(after, before)));
            }
        }
        growth.errors = std::array::from_fn(|kind| errors[kind] - self.errors[kind]);
        (self.counters, self.errors) = (counters, errors);
        growth
    }

    fn read_counters(&self) -> Vec<SlotCounters> {
        let map = self.ebpf.map("COUNTERS").expect("the map is in the object");
        let counters: Array<_, SlotCounters> = map.try_into().expect("an array");
        counters
            .iter()
            .map(|entry| entry.expect("the entry exists"))
            .collect()
    }

    fn read_errors(&self) -> [u64; ERROR_KINDS as usize] {
        let map = self.ebpf.map("ERRORS").expect("the map is in the object");
        let errors: PerCpuArray<_, u64> = map.try_into().expect("a per-CPU array");
        std::array::from_fn(|kind| {
            let kind = u32::try_from(kind).expect("few kinds");
            errors.get(&kind, 0).expect("the entry exists").iter().sum()
        })
    }
}

/// `struct __sk_buff` as the kernel wants it before a run.
pub(crate) fn context(gso: Gso) -> [u8; 192] {
    let mut context = [0; 192];
    let mut set = |offset: usize, value: u32| {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    };
    set(40, IFINDEX);
    set(164, gso.segs);
    set(176, gso.size);
    context
}

fn difference(after: &SlotCounters, before: &SlotCounters) -> SlotCounters {
    let tally = |after: Tally, before: Tally| Tally {
        bytes: after.bytes - before.bytes,
        packets: after.packets - before.packets,
        wire_bytes: after.wire_bytes - before.wire_bytes,
    };
    SlotCounters {
        receive: tally(after.receive, before.receive),
        transmit: tally(after.transmit, before.transmit),
        reserved: [
            after.reserved[0] - before.reserved[0],
            after.reserved[1] - before.reserved[1],
        ],
    }
}
