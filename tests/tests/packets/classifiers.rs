//! The classifiers, loaded for test runs.

use std::os::unix::fs::MetadataExt as _;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap},
    programs::SchedClassifier,
    util::nr_cpus,
};
use dtm_common::index::{IndexEntry, InterfaceKey};

use crate::banks::{Banks, Growth, SLOTS};

/// The loopback interface: every network namespace has it, and a test run needs an interface that exists.
pub(crate) const IFINDEX: u32 = 1;
/// The slot [`Classifiers::with_slot`] gives it.
pub(crate) const SLOT: u32 = 5;

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

/// The loaded programs and their maps.
pub(crate) struct Classifiers {
    ebpf: Ebpf,
    banks: Banks,
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
        let banks = Banks::of(&program(&ebpf, PROGRAMS[0]).info().expect("it is loaded"));
        Self { ebpf, banks }
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
    pub(crate) fn run_times(&mut self, name: &str, packet: &[u8], gso: Gso, times: u32) -> Growth {
        let program = program(&self.ebpf, name);
        self.banks.run(program, packet, &context(gso, IFINDEX), times)
    }
}

fn program<'a>(ebpf: &'a Ebpf, name: &str) -> &'a SchedClassifier {
    ebpf.program(name)
        .expect("the program is in the object")
        .try_into()
        .expect("it is a classifier")
}

/// `struct __sk_buff` as the kernel wants it before a run, at an interface of the calling thread's namespace.
pub(crate) fn context(gso: Gso, ifindex: u32) -> [u8; 192] {
    let mut context = [0; 192];
    let mut set = |offset: usize, value: u32| {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    };
    set(40, ifindex);
    set(164, gso.segs);
    set(176, gso.size);
    context
}
