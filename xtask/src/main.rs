//! `cargo xtask`: every chore of this repository, one file per command.

mod bench;
mod build_ebpf;
mod check;
mod demo;
mod image;
mod run;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser as _;

/// Every chore of this repository.
#[derive(clap::Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Setup(setup::Options),
    Run(run::Options),
    Demo(demo::Options),
    Test(test::Options),
    Check(check::Options),
    Bench(bench::Options),
    BuildEbpf(build_ebpf::Options),
    Image(image::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Setup(options) => setup::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::BuildEbpf(options) => build_ebpf::run(&options),
        Command::Image(options) => image::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
