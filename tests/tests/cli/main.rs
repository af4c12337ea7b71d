//! The program as its operator meets it: what it says to wrong input and on hosts that lack something, how it starts
//! and ends, and what it leaves alone.
//!
//! Needs root. A wrong start is one line that says what to do, exit code 64 for usage and 1 for failure, and leaves
//! nothing behind.

mod check;
mod lonely;
mod refusals;
mod rivals;
mod rootless;
mod scene;
mod usage;
