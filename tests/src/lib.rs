//! What dtm's test suites share. Ground truth here is never dtm's own code.

pub mod crowd;
pub mod daemon;
pub mod dashboards;
pub mod packets;
pub mod scene;
