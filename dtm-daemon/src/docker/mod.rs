//! Docker: what it says exists, and what it says happens.
//!
//! [`watch()`], and [`survey()`] for a single look, are all that talks to the engine, and only ask: every request is a GET. What it learns it
//! tells in [`DockerUpdate`]s, in order; `registry` decides what an event or a late answer means.

mod about;
mod ask;
#[cfg(test)]
mod captured;
mod connect;
mod convert;
#[cfg(test)]
pub(crate) mod fixture;
mod list;
mod model;
mod plain;
mod podman;
mod registry;
mod survey;
mod watch;

pub use about::About;
pub use connect::preflight;
pub use model::{Container, ContainerId, ContainerState, DockerUpdate, Endpoint, Network, Subnet};
pub use survey::{Survey, survey};
pub use watch::watch;
