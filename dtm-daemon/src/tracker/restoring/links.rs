//! The links that an earlier process has left, by whose they are.

use std::{collections::HashMap, path::PathBuf};

use dtm_common::traffic::Direction;

use crate::bpf::{Attachment, LinkName, Mode, Pins, take_off};

/// Those that nobody has taken yet.
pub(super) struct Links {
    by_generation: HashMap<u64, Vec<(LinkName, PathBuf)>>,
}

impl Links {
    /// Those in `pins`, and in those of a former run.
    pub(super) fn find(pins: &Pins, former: Option<&Pins>) -> Self {
        let mut by_generation: HashMap<u64, Vec<_>> = HashMap::new();
        for (name, path) in pins
            .links()
            .into_iter()
            .chain(former.into_iter().flat_map(Pins::links))
        {
            by_generation
                .entry(name.generation)
                .or_default()
                .push((name, path));
        }
        Self { by_generation }
    }

    /// Both links of this life of an interface; where one is missing, none. What is not taken stays with the others.
    pub(super) fn take(&mut self, generation: u64, mode: Mode) -> Option<Attachment> {
        let links = self.by_generation.get_mut(&generation)?;
        let mut newest = |direction: Direction| {
            let of_direction = links
                .iter()
                .enumerate()
                .filter(|(_at, (name, _path))| name.direction == direction);
            // One that took another's place has a higher number.
            let (at, _newest) = of_direction.max_by_key(|(_at, (name, _path))| name.id)?;
            Some(links.swap_remove(at).1)
        };
        let (transmit, receive) = (newest(Direction::Transmit)?, newest(Direction::Receive));
        let Some(receive) = receive else {
            take_off(transmit);
            return None;
        };
        Attachment::open(mode, transmit, receive)
            .inspect_err(|error| tracing::debug!(generation, %error, "a link is gone"))
            .ok()
    }

    /// Takes off those that nobody knows: a process that was killed had attached them and not yet said so, or had said
    /// already that they are gone.
    pub(super) fn take_off(self) {
        for (_name, path) in self.by_generation.into_values().flatten() {
            take_off(path);
        }
    }
}
