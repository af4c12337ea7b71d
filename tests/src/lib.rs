//! What dtm's test suites share. Ground truth here is never dtm's own code.

pub mod attached;
pub mod capture;
pub mod contained;
pub mod crowd;
pub mod daemon;
pub mod dashboards;
pub mod far;
pub mod foreign;
pub mod known;
pub mod lanes;
pub mod networks;
pub mod objects;
pub mod packets;
pub mod paths;
pub mod pins;
pub mod readme;
pub mod rules;
pub mod scene;
pub mod tally;
pub mod tcp;
pub mod watch;
