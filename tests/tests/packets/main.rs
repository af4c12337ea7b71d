//! Every classifier over packets nobody meets on a quiet network, with the exact contents of the maps afterwards
//! (`BPF_PROG_TEST_RUN`), and the drops program over the packets those runs free.
//!
//! Needs root. Attaches nothing to an interface; the expected numbers are written out, not computed by dtm.
#![expect(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod classifiers;
mod drops;
mod index;
mod plain;
mod random;
mod segments;
