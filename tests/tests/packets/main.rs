//! Every program over packets nobody meets on a quiet network, with the exact contents of the maps afterwards
//! (`BPF_PROG_TEST_RUN`), the drops program over the packets those runs free, and each way to attach one, at interfaces
//! and control groups of the suite's own.
//!
//! Needs root. The expected numbers are written out, or the kernel's, not computed by dtm.
#![expect(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod banks;
mod births;
mod classifiers;
mod connections;
mod drops;
mod groups;
mod index;
mod instances;
mod links;
mod moves;
mod namespace;
mod pins;
mod plain;
mod random;
mod segments;
mod sockets;
mod uplinks;
mod views;
