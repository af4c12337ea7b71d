//! How TCP connections fare, against what the kernel says of them itself: its counters of the namespace, and its sockets.

mod counted;
mod ends;
mod host;
mod kept;
mod stage;
mod times;
