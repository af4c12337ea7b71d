//! What dtm's kernel side and user side share: map keys and values, constants, and the packet parser.
//!
//! `no_std`, never allocates, never panics. Every type that crosses the boundary is `#[repr(C)]` without
//! implicit padding, and every bit pattern of it is valid; the daemon turns them into enums.
#![no_std]

pub mod cgroups;
pub mod drops;
pub mod errors;
pub mod flows;
pub mod index;
mod layout;
pub mod packet;
pub mod tcp;
pub mod traffic;
pub mod uplinks;
pub mod views;

pub use layout::LAYOUT;
