//! The maps that programs count in, before and after each run.

use std::{fs, os::fd::AsRawFd as _};

use aya::{
    maps::{Array, MapData, PerCpuArray},
    programs::{
        CgroupSkb, ProgramError, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult,
        loaded_programs,
    },
};
use dtm_common::{
    errors::ERROR_KINDS,
    traffic::{SlotCounters, Tally},
};

/// Slots of a bank. Few, so that every one of them is looked at after every run.
pub(crate) const SLOTS: u32 = 8;

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
        let counters = if program.ends_with("transmit") {
            SlotCounters {
                transmit: tally,
                ..SlotCounters::default()
            }
        } else {
            SlotCounters {
                receive: tally,
                ..SlotCounters::default()
            }
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

/// A program that can be run over a packet.
pub(crate) trait Runs {
    /// What it gives every packet.
    const VERDICT: i32;
    /// Where in the packet it begins to see.
    const BEGINS: usize;

    fn run(&self, options: TestRunOptions<'_>) -> Result<TestRunResult, ProgramError>;
}

impl Runs for SchedClassifier {
    /// `TC_ACT_UNSPEC`: the next program decides.
    const VERDICT: i32 = -1;
    const BEGINS: usize = 0;

    fn run(&self, options: TestRunOptions<'_>) -> Result<TestRunResult, ProgramError> {
        self.test_run(options)
    }
}

impl Runs for CgroupSkb {
    /// The packet is let pass.
    const VERDICT: i32 = 1;
    /// The Ethernet header only tells the kernel what it is.
    const BEGINS: usize = 14;

    fn run(&self, options: TestRunOptions<'_>) -> Result<TestRunResult, ProgramError> {
        self.test_run(options)
    }
}

/// `COUNTERS` and `ERRORS`, as the kernel has them.
pub(crate) struct Banks {
    counters: Array<MapData, SlotCounters>,
    errors: PerCpuArray<MapData, u64>,
    /// Every entry of `COUNTERS` at the last look.
    counted: Vec<SlotCounters>,
    /// `ERRORS` at the last look, over all CPUs.
    failed: [u64; ERROR_KINDS as usize],
}

impl Banks {
    /// Those that the program uses.
    pub(crate) fn of(program: &ProgramInfo) -> Self {
        let ids = program
            .map_ids()
            .expect("the kernel tells")
            .expect("it uses maps");
        let find = |name: &str| {
            let mut maps = ids
                .iter()
                .map(|id| MapData::from_id(*id).expect("a program keeps its maps"));
            maps.find(|map| map.info().expect("the kernel tells").name_as_str() == Some(name))
                .expect("every program uses the map")
        };
        let counters = Array::try_from(aya::maps::Map::Array(find("COUNTERS"))).expect("an array");
        let errors =
            PerCpuArray::try_from(aya::maps::Map::PerCpuArray(find("ERRORS"))).expect("a per-CPU array");
        let mut banks = Self {
            counted: Vec::new(),
            failed: [0; ERROR_KINDS as usize],
            counters,
            errors,
        };
        (banks.counted, banks.failed) = (banks.read_counters(), banks.read_errors());
        banks
    }

    /// Runs `program` over `packet`, `times` over on one CPU, checks its verdict and tells what grew.
    pub(crate) fn run<P: Runs>(&mut self, program: &P, packet: &[u8], context: &[u8], times: u32) -> Growth {
        let mut untouched = vec![0; packet.len()];
        let result = program
            .run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut untouched),
                ctx_in: Some(context),
                repeat: times,
                ..TestRunOptions::default()
            })
            .expect("the kernel runs it");
        assert_eq!(
            result.return_value.cast_signed(),
            P::VERDICT,
            "the program decides about a packet"
        );
        let (before, after) = (&packet[P::BEGINS..], &untouched[P::BEGINS..]);
        assert_eq!(before, after, "the program changes a packet");
        self.growth()
    }

    /// What grew since the last look.
    pub(crate) fn growth(&mut self) -> Growth {
        let (counters, errors) = (self.read_counters(), self.read_errors());
        let mut growth = Growth::default();
        for (index, (before, after)) in self.counted.iter().zip(&counters).enumerate() {
            if before != after {
                let slot = u32::try_from(index).expect("few slots") % SLOTS;
                growth.slots.push((slot, difference(after, before)));
            }
        }
        growth.errors = std::array::from_fn(|kind| errors[kind] - self.failed[kind]);
        (self.counted, self.failed) = (counters, errors);
        growth
    }

    fn read_counters(&self) -> Vec<SlotCounters> {
        let entries = self.counters.iter();
        entries.map(|entry| entry.expect("the entry exists")).collect()
    }

    fn read_errors(&self) -> [u64; ERROR_KINDS as usize] {
        std::array::from_fn(|kind| {
            let kind = u32::try_from(kind).expect("few kinds");
            let errors = self.errors.get(&kind, 0).expect("the entry exists");
            errors.iter().sum()
        })
    }
}

/// What the kernel tells of the program behind a descriptor.
pub(crate) fn info(program: &impl std::os::fd::AsFd) -> ProgramInfo {
    let id = from_fdinfo(program, "prog_id:");
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| u64::from(program.id()) == id)
        .expect("an open program is loaded")
}

/// A number out of what the kernel shows of a descriptor.
pub(crate) fn from_fdinfo(descriptor: &impl std::os::fd::AsFd, key: &str) -> u64 {
    let number = descriptor.as_fd().as_raw_fd();
    let shown = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("the descriptor is open");
    let value = shown.lines().find_map(|line| line.strip_prefix(key));
    value
        .and_then(|value| value.trim().parse().ok())
        .expect("the kernel shows it")
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
