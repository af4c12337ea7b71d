//! How to build dtm's kernel side: [`build()`] compiles the binary `dtm-kernel` of this package for the BPF target.
//!
//! The kernel side itself is the binary, not this library; for the BPF target the library is empty.
#![cfg_attr(target_arch = "bpf", no_std)]

#[cfg(not(target_arch = "bpf"))]
mod build;

#[cfg(not(target_arch = "bpf"))]
pub use build::{
    SKIP_VARIABLES, Toolchain, build, cargo_home, inputs, linker, skips, target, target_dir, tools,
};
