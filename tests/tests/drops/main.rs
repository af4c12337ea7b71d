//! What was dropped, whose it was and why: each time exactly what a rule, a queue or the kernel itself says, and nothing of
//! what arrived. And where dtm finds it in the kernel's memory, by another's reading of the same type information.

mod bridge;
mod clean;
mod host;
mod macvlan;
mod offsets;
mod stage;
mod translated;
