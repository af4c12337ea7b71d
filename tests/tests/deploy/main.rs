//! What `deploy/` holds is right without anything of it running: the dashboards by the dashboard linter's rules and
//! by Grafana's own types, the alerts by promtool, and everything by the names dtm really has.

mod alerts;
mod compose;
mod layout;
mod linter;
mod names;
mod types;
