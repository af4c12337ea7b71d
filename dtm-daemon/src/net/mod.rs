//! The kernel's view of interfaces and namespaces, over netlink and `/proc`.

mod links;
mod peers;
mod processes;
mod requests;
mod sandboxes;
mod watch;

pub use links::{Indices, Link, LinkKind, dump, get};
pub use peers::{Peer, namespace_id, peer};
pub use processes::{NamespaceOwner, Processes, container_ids, open_netns};
pub use requests::{NetlinkError, Requests};
pub use sandboxes::Sandboxes;
pub use watch::{LinkEvent, LinkWatch, MovedTo};
