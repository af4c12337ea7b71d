//! What dtm's test suites share. Ground truth here is never dtm's own code.

pub mod dashboards;
pub mod eventually;
pub mod exposition;
pub mod http;
pub mod packets;
pub mod prometheus;
