//! Real engines, old and current, with real traffic: what dtm says is held against the kernel's own counters and
//! against senders that know what they sent.

mod births;
mod drops;
mod sandboxes;
