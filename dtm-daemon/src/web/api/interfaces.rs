//! `/api/v1/interfaces`: where dtm counts and what it counted there, and what it cannot count.

use serde::Serialize;

use super::rates::{Carried, Rate, seconds};
use crate::{
    tracker::{PlaceSnapshot, Places, Snapshot, UncoveredSnapshot},
    web::readings::Earlier,
};

/// Every place.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    seconds: Rate,
    interfaces: Vec<Interface<'a>>,
    uncovered: &'a [UncoveredSnapshot],
}

#[derive(Debug, Serialize)]
struct Interface<'a> {
    #[serde(flatten)]
    place: &'a PlaceSnapshot,
    receive: Option<Carried>,
    transmit: Option<Carried>,
}

impl<'a> Answer<'a> {
    /// Those of `places`, in their order, with what `now` has of their lives.
    pub(super) fn new(places: &'a Places, now: &Snapshot, earlier: Option<&Earlier>) -> Self {
        let interfaces = places.interfaces.iter().map(|place| {
            let life = |snapshot: &Snapshot| snapshot.lives.get(&place.generation?).copied();
            let counted = life(now);
            let before = earlier.and_then(|earlier| life(&earlier.snapshot));
            Interface {
                place,
                receive: counted
                    .map(|life| Carried::new(life.receive, before.map(|life| life.receive), earlier)),
                transmit: counted
                    .map(|life| Carried::new(life.transmit, before.map(|life| life.transmit), earlier)),
            }
        });
        Self {
            seconds: seconds(earlier),
            interfaces: interfaces.collect(),
            uncovered: &places.uncovered,
        }
    }
}
