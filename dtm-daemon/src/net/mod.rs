//! The kernel's view of interfaces and namespaces, over netlink and `/proc`.

mod addresses;
mod counters;
mod hierarchy;
mod links;
mod own;
mod peers;
mod processes;
mod requests;
mod sandboxes;
mod statistics;
mod watch;

pub use addresses::{InterfaceAddress, dump_addresses};
pub use counters::ListenCounts;
pub use hierarchy::{Hierarchy, container_of_group};
pub use links::{Indices, Link, LinkKind, dump, get};
pub use own::{netns_cookie, own_netns_inode};
pub use peers::{Peer, device, namespace_id, peer};
pub use processes::{NamespaceOwner, Processes, container_ids, enter, open_netns};
pub use requests::{NetlinkError, Requests};
pub use sandboxes::{Sandboxes, hidden_network, mounted_netns};
pub use statistics::{DeviceDrops, device_drops};
pub use watch::{LinkEvent, LinkSubscription, LinkWatch, MovedTo};
