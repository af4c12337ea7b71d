//! Counting right: exact numbers for every kind of traffic, and exact differences to the kernel's own counters where
//! the two see different things. docs/counting.md tells users of the latter.

mod differences;
mod exact;
mod indices;
mod liberties;
mod readings;
mod segments;
mod shapes;
mod stage;
