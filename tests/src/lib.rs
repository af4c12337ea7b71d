//! What dtm's test suites share. Ground truth here is never dtm's own code.

pub mod attached;
pub mod capture;
pub mod crowd;
pub mod daemon;
pub mod dashboards;
pub mod far;
pub mod foreign;
pub mod lanes;
pub mod packets;
pub mod readme;
pub mod scene;
pub mod tally;
