//! The programs once more, each time with constants of their own, over the maps that are there already.
//!
//! An interface of another network namespace cannot be told by its index from one in dtm's own, and TCX gives a program
//! nothing to know its link by; neither does a control group's hook. What cannot be looked up is in the program: an
//! instance for each namespace, device or group.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use aya::{Ebpf, maps::Map};
use aya_obj::{
    EbpfSectionKind, Object,
    generated::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE, bpf_insn},
};
use dtm_common::{index::SLOT_BY_INTERFACE, traffic::Direction, uplinks::UPLINKS_MAX};

use super::{
    Limits, OBJECT,
    load::Constants,
    sys::{self, ProgramType},
};

/// The programs there are instances of.
const PROGRAMS: [(&str, ProgramType); 5] = [
    ("dtm_transmit", ProgramType::Classifier),
    ("dtm_receive", ProgramType::Classifier),
    ("dtm_cgroup_transmit", ProgramType::CgroupSkb(Direction::Transmit)),
    ("dtm_cgroup_receive", ProgramType::CgroupSkb(Direction::Receive)),
    ("dtm_uplink", ProgramType::Xdp),
];

/// Stands for the map of constants in instructions, until an instance has one.
const CONSTANTS: RawFd = -1;

/// The code of an instruction that loads 64 bits, of which a map's address is one kind.
const LOAD_MAP: u32 = BPF_LD | BPF_IMM | BPF_DW;

/// Where what a program instance counts goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counts {
    /// To the slots of the interfaces of this network namespace: dtm's number for it, which is not 0. They are entered
    /// with [`Kernel::enter`](super::Kernel::enter).
    Namespace(u32),
    /// To this one slot, whatever the interface, its index and its namespace.
    Slot(u32),
}

/// What instances of the programs are made from. Keeps the maps of the first load open.
pub struct Template {
    /// The object without its code: it knows where in the constants each is.
    object: Object,
    /// In the order of [`PROGRAMS`].
    programs: Vec<Code>,
    license: CString,
    slots: u32,
    /// Open for as long as the instructions name their numbers.
    _maps: Vec<OwnedFd>,
}

/// A program's instructions, ready but for the map of constants.
struct Code {
    instructions: Vec<bpf_insn>,
    /// Those that name it.
    constants: Vec<usize>,
}

impl Template {
    /// Prepares everything but the constants of an instance, which are the same as these where the instance does not
    /// say otherwise.
    pub(super) fn new(constants: &Constants, ebpf: &Ebpf, limits: Limits) -> anyhow::Result<Self> {
        let mut object = Object::parse(OBJECT).context("parse the kernel side")?;
        let values = constants.iter().map(|(name, value)| (name, (value, true)));
        object.patch_map_data(values.collect())?;
        let mut maps = Vec::new();
        for (name, map) in ebpf.maps() {
            let fd =
                descriptor(map).ok_or_else(|| anyhow!("the map {name} is of another kind than dtm's"))?;
            maps.push((name.to_owned(), fd.try_clone_to_owned()?));
        }
        relocate(&mut object, &maps).context("prepare instances of the kernel side")?;
        let programs = PROGRAMS.iter().map(|(name, _)| Code::of(&object, name));
        let programs = programs.collect::<anyhow::Result<Vec<_>>>()?;
        maps.retain(|(_, fd)| programs.iter().any(|code| code.names(fd.as_raw_fd())));
        let license = object.license.clone();
        object.programs.clear();
        object.functions.clear();
        (object.btf, object.btf_ext) = (None, None);
        Ok(Self {
            object,
            programs,
            license,
            slots: limits.slots,
            _maps: maps.into_iter().map(|(_name, fd)| fd).collect(),
        })
    }

    /// `dtm_transmit` and `dtm_receive`, loaded anew: for an [`Attacher`](super::Attacher).
    ///
    /// Costs the verifier's work, 8 ms for each of the two on 6.18, and 22 kB of the kernel's memory as long as they are
    /// loaded: not for the thread that owns the state.
    ///
    /// # Errors
    ///
    /// Where there is no such slot, or the kernel refuses: with the end of the verifier's log.
    pub fn classifiers(&self, counts: Counts) -> anyhow::Result<(OwnedFd, OwnedFd)> {
        let (netns, slot) = match counts {
            Counts::Namespace(netns) => {
                ensure!(netns != 0, "number 0 is dtm's own network namespace");
                (netns, SLOT_BY_INTERFACE)
            }
            Counts::Slot(slot) => (0, self.checked(slot)?),
        };
        let constants = self.constants(netns, slot)?;
        Ok((self.load(0, &constants)?, self.load(1, &constants)?))
    }

    /// `dtm_cgroup_transmit` and `dtm_cgroup_receive`, loaded anew and counting into `slot`: for
    /// [`CgroupLink::create`](super::CgroupLink::create), with [`Direction::Transmit`] and [`Direction::Receive`].
    ///
    /// Costs 11 ms for each of the two on 6.18, and as much memory as a pair of classifiers: who wants to be there before
    /// a container's first packet has a pair at hand before the container is born. Linking one takes microseconds.
    ///
    /// # Errors
    ///
    /// As [`classifiers`](Self::classifiers).
    ///
    /// # Minimum kernel version
    ///
    /// 5.8.
    pub fn cgroup(&self, slot: u32) -> anyhow::Result<(OwnedFd, OwnedFd)> {
        let constants = self.constants(0, self.checked(slot)?)?;
        Ok((self.load(2, &constants)?, self.load(3, &constants)?))
    }

    /// `dtm_uplink`, loaded anew and counting into this slot of uplinks: for [`UplinkLink::attach`](super::UplinkLink::attach).
    ///
    /// # Errors
    ///
    /// As [`classifiers`](Self::classifiers).
    pub fn uplink(&self, slot: u32) -> anyhow::Result<OwnedFd> {
        ensure!(
            slot < UPLINKS_MAX,
            "there is no slot {slot} of {UPLINKS_MAX} for uplinks"
        );
        self.load(4, &self.constants(0, slot)?)
    }

    fn checked(&self, slot: u32) -> anyhow::Result<u32> {
        ensure!(slot < self.slots, "there is no slot {slot} of {}", self.slots);
        Ok(slot)
    }

    /// The map of an instance's constants.
    fn constants(&self, netns: u32, slot: u32) -> anyhow::Result<OwnedFd> {
        let (netns, slot) = (netns.to_ne_bytes(), slot.to_ne_bytes());
        let values = [("NETNS", (&netns[..], true)), ("SLOT", (&slot[..], true))];
        let mut object = self.object.clone();
        object.patch_map_data(HashMap::from(values))?;
        let (_, values) = read_only(&object)?;
        sys::constants(values).context("make the map of a program's constants")
    }

    fn load(&self, index: usize, constants: &OwnedFd) -> anyhow::Result<OwnedFd> {
        let (name, kind) = PROGRAMS[index];
        let code = &self.programs[index];
        let mut instructions = code.instructions.clone();
        for place in &code.constants {
            instructions[*place].imm = constants.as_raw_fd();
        }
        sys::load(kind, name, &self.license, &instructions).with_context(|| format!("load {name} once more"))
    }
}

impl Code {
    fn of(object: &Object, name: &str) -> anyhow::Result<Self> {
        let program = object.programs.get(name);
        let function = program.and_then(|program| object.functions.get(&program.function_key()));
        let function = function.ok_or_else(|| anyhow!("the kernel side has no program {name}"))?;
        let instructions = function.instructions.clone();
        let numbered = instructions.iter().enumerate();
        let constants = numbered.filter(|(_, instruction)| map_of(**instruction) == Some(CONSTANTS));
        Ok(Self {
            constants: constants.map(|(place, _)| place).collect(),
            instructions,
        })
    }

    /// Whether an instruction names the map with this number.
    fn names(&self, map: RawFd) -> bool {
        self.instructions
            .iter()
            .any(|instruction| map_of(*instruction) == Some(map))
    }
}

/// The map whose address, or that of something in it, an instruction loads.
fn map_of(instruction: bpf_insn) -> Option<RawFd> {
    let loads_map = u32::from(instruction.code) == LOAD_MAP
        && matches!(
            u32::from(instruction.src_reg()),
            BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE
        );
    loads_map.then_some(instruction.imm)
}

/// Puts the numbers of `maps` into the instructions, and the functions that programs call behind them.
fn relocate(object: &mut Object, maps: &[(String, OwnedFd)]) -> anyhow::Result<()> {
    let (constants, _) = read_only(object)?;
    let constants = constants.to_owned();
    let definitions = object.maps.clone();
    let mut numbers = Vec::with_capacity(definitions.len());
    for (name, definition) in &definitions {
        let number = if *name == constants {
            CONSTANTS
        } else {
            let map = maps.iter().find(|(known, _)| known == name);
            let (_, fd) = map.with_context(|| format!("the map {name} is not loaded"))?;
            fd.as_raw_fd()
        };
        numbers.push((name.as_str(), number, definition));
    }
    let text_sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(numbers.into_iter(), &text_sections)?;
    object.relocate_calls(&text_sections)?;
    object.sanitize_functions(aya::features());
    Ok(())
}

/// The section of constants and its contents: the one piece of data that the kernel side has.
fn read_only(object: &Object) -> anyhow::Result<(&str, &[u8])> {
    let mut sections = object.maps.iter().filter(|(_, map)| !map.data().is_empty());
    let (Some((name, map)), None) = (sections.next(), sections.next()) else {
        bail!("the kernel side has other data than one section of constants");
    };
    ensure!(
        map.section_kind() == EbpfSectionKind::Rodata,
        "the kernel side has variables in {name}: instances would not share them"
    );
    Ok((name, map.data()))
}

/// The descriptor of a map of one of the kinds that dtm has.
fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(map)
        | Map::ArrayOfMaps(map)
        | Map::HashMap(map)
        | Map::PerCpuArray(map)
        | Map::PerCpuHashMap(map)
        | Map::ProgramArray(map)
        | Map::RingBuf(map) => Some(map.fd().as_fd()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL};

    use super::*;

    /// Before 6.3 the verifier takes every number in a program that calls a function of its own for one that matters, follows
    /// each value on its own path, and gives up. The compiler makes such calls for it of what fills or copies memory.
    #[test]
    fn programs_of_the_packet_path_call_no_function() {
        let object = Object::parse(OBJECT).unwrap();
        for (name, _kind) in PROGRAMS {
            let code = Code::of(&object, name).unwrap();
            let calls = code.instructions.iter().filter(|instruction| {
                u32::from(instruction.code) == BPF_JMP | BPF_CALL
                    && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL
            });
            assert_eq!(calls.count(), 0, "{name}");
        }
    }
}
