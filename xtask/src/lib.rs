//! What the commands share with the tests: Docker hosts that leave nothing behind.

pub mod host;
