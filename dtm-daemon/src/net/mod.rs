//! The kernel's view of interfaces and namespaces, over netlink and `/proc`.

mod links;
mod peers;
mod processes;
mod requests;
mod watch;

pub use links::{Link, LinkKind, dump, get};
pub use peers::{Peer, namespace_id, peer};
pub use processes::{NamespaceOwner, Processes, container_ids, open_netns};
pub use requests::{NetlinkError, Requests};
pub use watch::{LinkEvent, LinkWatch};
