//! Every network mode of Docker's, on both engines: what a container moves is counted and named whatever network it
//! uses, exactly.
//!
//! One file or folder per mode. What only shows where several meet is in `invariant`.

mod bridge;
mod comebacks;
mod contained;
mod facts;
mod fares;
mod host;
mod invariant;
mod macvlan;
mod nested;
mod overlay;
mod places;
mod podman;
mod shared;
