//! What happens while no dtm runs: kills, stops, upgrades, and whatever others do meanwhile. Nothing that was attached is
//! lost, and nothing is counted twice.
//!
//! The dtms with another kernel side are built by `cargo xtask test away`.

mod bpffs;
mod contained;
mod detach;
mod interrupted;
mod kills;
mod leavings;
mod load;
mod meanwhile;
mod names;
mod no_pin;
mod places;
mod stage;
mod stops;
mod theft;
mod unwatched;
mod upgrades;
mod whereabouts;
