//! The program at uplinks: its counters, its links, and what of both outlives the process.

use std::{
    io, mem,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    sync::atomic::Ordering,
};

use dtm_common::uplinks::{NAME_BYTES, UPLINKS_MAX, UplinkCounters};

use super::{
    Pins, UplinkName, XdpLink, XdpMode,
    mapping::Mapping,
    sys::{self, map_shape},
};

/// 64-bit words in a slot, and before its name.
const WORDS: usize = size_of::<UplinkCounters>() / size_of::<u64>();
const BEFORE_NAME: usize = mem::offset_of!(UplinkCounters, name) / size_of::<u64>();

/// The name of the map.
pub(super) const MAP: &str = "UPLINKS";

/// Why there is no program at an uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Somebody else's XDP program is there.
    #[error("another XDP program is there, which stays")]
    Occupied,
    /// The kernel takes it neither in the driver nor in its stack.
    #[error("create an XDP link")]
    Refused(#[source] io::Error),
    /// What is counted would not outlive this process.
    #[error("pin the XDP link")]
    Pin(#[source] io::Error),
}

impl UplinkError {
    /// The `reason` label of `dtm_attach_errors_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Occupied => "xdp_occupied",
            Self::Refused(_) | Self::Pin(_) => "xdp",
        }
    }
}

/// Every CPU's bank of counters of uplinks, mapped into the daemon.
#[derive(Debug)]
pub struct UplinkBanks {
    mapping: Mapping,
    cpus: usize,
}

impl UplinkBanks {
    pub(super) fn map(map: BorrowedFd<'_>, cpus: usize) -> io::Result<Self> {
        let bytes = cpus * UPLINKS_MAX as usize * size_of::<UplinkCounters>();
        Ok(Self {
            mapping: Mapping::new(map, bytes)?,
            cpus,
        })
    }

    /// Those of a run that this process does not go on with, where they are laid out as its own.
    pub fn of(pins: &Pins) -> io::Result<Self> {
        let map = sys::open(&pins.map(MAP))?;
        let shape = map_shape(map.as_fd())?;
        if shape.value_size as usize != size_of::<UplinkCounters>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another layout"));
        }
        Self::map(map.as_fd(), (shape.max_entries / UPLINKS_MAX) as usize)
    }

    /// What has arrived at the uplink with this slot.
    pub fn read(&self, slot: u32) -> UplinkCounters {
        let mut sums = [0; BEFORE_NAME];
        for cpu in 0..self.cpus {
            for (number, sum) in sums.iter_mut().enumerate() {
                *sum += self.word(cpu, slot, number).load(Ordering::Relaxed);
            }
        }
        let mut counters = UplinkCounters::default();
        let mut words = sums.into_iter();
        for volume in &mut counters.protocols {
            volume.bytes = words.next().unwrap_or_default();
            volume.packets = words.next().unwrap_or_default();
        }
        counters.syns = words.next().unwrap_or_default();
        counters
    }

    /// Adds to a slot what another run has counted for the same uplink.
    pub fn add(&self, slot: u32, counted: &UplinkCounters) {
        let volumes = counted.protocols.iter();
        let words = volumes.flat_map(|volume| [volume.bytes, volume.packets]);
        for (number, value) in words.chain([counted.syns]).enumerate() {
            self.word(0, slot, number).fetch_add(value, Ordering::Relaxed);
        }
    }

    /// The uplink that a slot is taken by.
    pub fn name(&self, slot: u32) -> Option<String> {
        let words =
            [BEFORE_NAME, BEFORE_NAME + 1].map(|word| self.word(0, slot, word).load(Ordering::Acquire));
        let bytes = words.map(u64::to_ne_bytes);
        let name = bytes.as_flattened().split(|byte| *byte == 0).next()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        (!name.is_empty()).then_some(name)
    }

    /// The slot of an uplink, which goes on where one of this name was; none where all are taken.
    pub fn claim(&self, name: &str) -> Option<u32> {
        let is_its = |slot: &u32| self.name(*slot).as_deref() == Some(name);
        let slot = (0..UPLINKS_MAX).find(is_its);
        slot.or_else(|| {
            let free = (0..UPLINKS_MAX).find(|slot| self.name(*slot).is_none())?;
            self.clear(free);
            let mut bytes = [0; NAME_BYTES];
            let room = bytes.iter_mut().take(NAME_BYTES - 1);
            for (byte, letter) in room.zip(name.bytes()) {
                *byte = letter;
            }
            let ([first, second], _) = bytes.as_chunks::<{ size_of::<u64>() }>() else {
                return None;
            };
            // The first word says that there is a name.
            for (word, value) in [(1, second), (0, first)] {
                self.word(0, free, BEFORE_NAME + word)
                    .store(u64::from_ne_bytes(*value), Ordering::Release);
            }
            Some(free)
        })
    }

    /// Sets a slot to zero and free. Only for one that no attached program counts into.
    pub fn clear(&self, slot: u32) {
        for cpu in 0..self.cpus {
            for word in [BEFORE_NAME].into_iter().chain(0..WORDS) {
                self.word(cpu, slot, word).store(0, Ordering::Relaxed);
            }
        }
    }

    fn word(&self, cpu: usize, slot: u32, word: usize) -> &std::sync::atomic::AtomicU64 {
        let slot = cpu * UPLINKS_MAX as usize + slot as usize;
        &self.mapping.words()[slot * WORDS + word]
    }
}

/// The program at an uplink. Dropping it takes the program off.
#[derive(Debug)]
pub struct UplinkLink {
    link: XdpLink,
    name: UplinkName,
}

impl UplinkLink {
    /// Attaches `program`, which counts into the slot of `name`: in the driver, or else in the kernel's stack. In the latter
    /// case says why, where the driver knows XDP at all.
    pub fn attach(
        program: BorrowedFd<'_>,
        ifindex: u32,
        mut name: UplinkName,
        pins: Option<&Pins>,
    ) -> Result<(Self, Option<io::Error>), UplinkError> {
        let mut why = None;
        let mut created = XdpLink::create(program, ifindex, XdpMode::Native);
        name.mode = XdpMode::Native;
        if let Err(error) = created.as_ref()
            && !is_occupied(error)
        {
            name.mode = XdpMode::Generic;
            let generic = XdpLink::create(program, ifindex, XdpMode::Generic);
            why = mem::replace(&mut created, generic).err();
        }
        let link = created.map_err(|error| {
            if is_occupied(&error) {
                UplinkError::Occupied
            } else {
                UplinkError::Refused(error)
            }
        })?;
        let mut link = Self { link, name };
        if let Some(pins) = pins {
            let pinned = link.link.0.pin(pins.uplink(name));
            pinned.map_err(UplinkError::Pin)?;
        }
        let why = why.filter(|error| error.raw_os_error() != Some(libc::EOPNOTSUPP));
        Ok((link, why))
    }

    /// One that an earlier process has left.
    pub fn open(name: UplinkName, path: PathBuf) -> io::Result<Self> {
        Ok(Self {
            link: XdpLink::open(path)?,
            name,
        })
    }

    /// Has it hold another program over the same counters; each packet passes one of the two.
    ///
    /// # Errors
    ///
    /// `ENOLINK` where it holds nothing any more.
    pub fn replace(&mut self, program: BorrowedFd<'_>, number: u64, pins: Option<&Pins>) -> io::Result<()> {
        self.link.0.update(program)?;
        self.name.program = number;
        match pins {
            Some(pins) => self.link.0.pin(pins.uplink(self.name)),
            None => Ok(()),
        }
    }

    /// What it is called.
    pub fn name(&self) -> UplinkName {
        self.name
    }

    /// The index of its interface; none once that is gone, or somebody detached it.
    pub fn ifindex(&self) -> io::Result<Option<u32>> {
        self.link.ifindex()
    }

    /// Takes its name away: it goes with this process.
    pub fn unpin(&mut self) {
        self.link.0.unpin();
    }

    /// Leaves it attached for whoever comes next, where it has a name.
    pub fn keep(mut self) {
        self.link.0.keep();
    }
}

fn is_occupied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}
