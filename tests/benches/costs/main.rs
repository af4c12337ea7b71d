//! What dtm costs: every figure beside what it is compared with, from one run, with its spread. Started by
//! `cargo xtask bench`, which builds it for release.

mod births;
mod connections;
mod groups;
mod process;
mod programs;
mod programs_at;
mod rtnl;
mod scrapes;
mod takeover;
mod uplinks;
mod views;

use std::time::Duration;

use anyhow::{Result, ensure};

/// Measures something and prints it.
type Part = fn() -> Result<()>;

fn main() -> Result<()> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::thread::available_parallelism()?;
    println!("kernel {}, {cpus} CPUs", kernel.trim());
    let parts: [(&str, Part); 8] = [
        ("programs", programs::run),
        ("views", views::run),
        ("uplinks", uplinks::run),
        ("connections", connections::run),
        ("births", births::run),
        ("groups", groups::run),
        ("scrapes", scrapes::run),
        ("takeover", takeover::run),
    ];
    // cargo adds an option of its own.
    let arguments = std::env::args().skip(1);
    let wanted: Vec<String> = arguments.filter(|argument| !argument.starts_with("--")).collect();
    for part in &wanted {
        ensure!(
            parts.iter().any(|(name, _run)| name == part),
            "there is no part {part} to measure"
        );
    }
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|part| part == name) {
            run()?;
        }
    }
    Ok(())
}

/// Minimum, median and maximum of some measurements, for a table.
fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    format!("{:.1} / {:.1} / {:.1}", values[0], values[last / 2], values[last])
}

/// The value that `percent` of the values do not exceed.
fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() * percent).div_ceil(100)).saturating_sub(1)]
}

#[expect(clippy::disallowed_methods, reason = "time that passes is what is measured")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
