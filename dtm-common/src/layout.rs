//! The version of the maps that outlive the daemon.

/// To be raised with every change of a map that is pinned, its key, its value or what they mean, and of the program at the
/// tracepoint of drops. A newer dtm that finds another one's maps does not go on with them: it reads what they say and makes
/// its own.
pub const LAYOUT: u32 = if cfg!(feature = "other-layout") { 3 } else { 2 };
