//! `dtm check`: what this host and its engine offer, and what dtm could not count there.
//!
//! Looks and asks, and starts nothing. The kernel side is loaded, with its tracepoints attached, for the moment it takes
//! to see that it can be. Where containers are counted is decided by the daemon's own
//! [`placing`](crate::tracker::placing).

mod containers;
mod docker;
mod host;
mod kernel;
mod table;

pub use self::table::Report;
use crate::{
    config::{HostConfig, VERSION},
    docker::survey,
};

/// Looks at everything.
pub async fn look(config: HostConfig) -> Report {
    let host = host::Host::look(&config).await;
    let engine = docker::Engine::look(&config).await;
    let mut report = Report::new(format!("dtm {VERSION} on {}", host.kernel()));
    report.add("Host", host.findings());
    match engine {
        Ok(engine) => {
            let sights = containers::Sights::look(&config, &engine, host.hierarchy());
            report.add("Docker", engine.findings(&config, &sights));
            report.add("Containers", containers::findings(&engine.survey, &sights));
        }
        Err(absent) => report.add("Docker", vec![absent]),
    }
    report
}
