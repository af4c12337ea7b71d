//! `cargo xtask`: every chore of this repository, one file per command.

mod build_ebpf;

use std::process::ExitCode;

use clap::Parser as _;

/// Every chore of this repository.
#[derive(clap::Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    BuildEbpf(build_ebpf::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::BuildEbpf(options) => build_ebpf::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
