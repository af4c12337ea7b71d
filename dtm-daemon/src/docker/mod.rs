//! Docker: what it says exists, and what it says happens.

mod model;

pub use model::{Container, ContainerId, ContainerState, DockerUpdate, Endpoint, Network};
