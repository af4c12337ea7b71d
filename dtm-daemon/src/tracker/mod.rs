//! Who is who: the one owner of the daemon's state.

mod handle;
mod snapshot;

pub use handle::{TrackerHandle, TrackerStopped};
pub use snapshot::{
    ContainerSnapshot, DropSnapshot, InterfaceSnapshot, NetworkSnapshot, Snapshot, Status, Traffic,
};
