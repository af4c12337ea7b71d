//! dtm in company: other tools' programs before and after its own, passing and terminating ones, by clsact, TCX and XDP;
//! tools that take its programs off.
//!
//! Needs root and both engines. The others' programs count their own runs: they run on whatever dtm does, and dtm counts
//! on whatever they do, exactly what the kernel does or exactly what was sent.

mod filters;
mod mending;
mod scene;
mod tcx;
