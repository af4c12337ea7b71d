//! Docker: what it says exists, and what it says happens.

mod connect;
mod convert;
mod model;
mod registry;
mod watch;

pub use connect::preflight;
pub use model::{Container, ContainerId, ContainerState, DockerUpdate, Endpoint, Network};
pub use watch::watch;
