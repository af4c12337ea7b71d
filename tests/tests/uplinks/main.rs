//! Uplinks: what arrives before the host's firewall, against what was sent, what the kernel counts at the interface, and what
//! the firewall says it has thrown away.

mod comebacks;
mod company;
mod frames;
mod refusals;
mod stage;
