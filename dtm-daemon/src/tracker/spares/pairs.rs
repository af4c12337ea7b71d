//! Two programs that count into one slot, and their names for whoever comes next.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use dtm_common::traffic::Direction;

use super::Kind;
use crate::bpf::{Pin, Pins, ProgramName};

/// Two loaded programs that count into one slot.
#[derive(Debug)]
pub(crate) struct Pair {
    /// For what the container transmits.
    pub(in crate::tracker) transmit: OwnedFd,
    /// For what it receives.
    pub(in crate::tracker) receive: OwnedFd,
    /// Their names for whoever comes next.
    pins: Mutex<Vec<Pin>>,
}

/// The same, shared by those who attach with them.
pub(crate) type Programs = Arc<Pair>;

/// Where programs outlive the process, and what they are.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct Lasting {
    pub(in crate::tracker) pins: Arc<Pins>,
    /// See [`Kernel::program`](crate::bpf::Kernel::program).
    pub(in crate::tracker) program: u64,
}

impl Pair {
    pub(super) fn new((transmit, receive): (OwnedFd, OwnedFd)) -> Self {
        Self {
            transmit,
            receive,
            pins: Mutex::default(),
        }
    }

    /// Those that an earlier process has left under these names.
    pub(super) fn open(transmit: PathBuf, receive: PathBuf) -> io::Result<Self> {
        let (transmit, transmit_pin) = Pin::open(transmit)?;
        let (receive, receive_pin) = Pin::open(receive)?;
        Ok(Self {
            transmit,
            receive,
            pins: Mutex::new(vec![transmit_pin, receive_pin]),
        })
    }

    /// Gives them names for whoever comes next.
    pub(super) fn pin(&self, lasting: &Lasting, kind: Kind, slot: u32) -> io::Result<()> {
        let pin = |program: &OwnedFd, direction| {
            let name = ProgramName {
                is_of_group: kind == Kind::Group,
                slot,
                direction,
                program: lasting.program,
            };
            lasting.pins.pin_program(name, program.as_fd())
        };
        let pins = vec![
            pin(&self.transmit, Direction::Transmit)?,
            pin(&self.receive, Direction::Receive)?,
        ];
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner) = pins;
        Ok(())
    }

    /// Takes their names away, for good or for whoever comes next.
    pub(super) fn take_pins(&self) -> Vec<Pin> {
        std::mem::take(&mut *self.pins.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves them loaded for whoever comes next.
    pub(super) fn keep(&self) {
        self.take_pins().into_iter().for_each(Pin::keep);
    }
}
