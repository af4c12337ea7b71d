//! What dtm costs: every figure beside what it is compared with, from one run, with its spread. Started by
//! `cargo xtask bench`, which builds it for release.

mod births;
mod programs;
mod scrapes;

use anyhow::Result;

fn main() -> Result<()> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::thread::available_parallelism()?;
    println!("kernel {}, {cpus} CPUs", kernel.trim());
    programs::run()?;
    births::run()?;
    scrapes::run()
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
