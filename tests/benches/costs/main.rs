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
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    format!("{:.1} / {:.1} / {:.1}", at(0.0), at(0.5), at(1.0))
}

/// The value below which `share` of the sorted `values` are.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).ceil() as usize]
}
