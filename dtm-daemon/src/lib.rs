//! The dtm daemon: attaches counting programs to the interfaces of a host's containers, names what they count
//! and serves it.
//!
//! One concern per folder; [`tracker`] owns the state, everything else hands it messages or reads its snapshot.

pub mod bpf;
pub mod check;
pub mod command;
pub mod config;
pub mod detach;
pub mod docker;
pub mod journal;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod serve;
pub mod single;
pub mod tracker;
pub mod uplinks;
pub mod web;
