//! Other kernels than this machine's, for the suite `kernels`: Debian's packages, unpacked and not installed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{apt, say};
use crate::workspace;

/// Their series: the oldest with names for drop reasons that a distribution still looks after, and the first long-term
/// one with TCX.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Puts the newest kernel of each series under `target/kernels/<series>`, where it is not yet.
///
/// # Errors
///
/// Where apt does not offer one, or cannot fetch it.
pub(super) fn ensure() -> Result<()> {
    for series in SERIES {
        let place = workspace::target().join("kernels").join(series);
        if !place.join("boot").is_dir() {
            ensure!(
                apt::is_here(),
                "the suite kernels needs Debian's kernel packages, unpacked under {}",
                place.display()
            );
            fetch(series, &place).with_context(|| format!("fetch a kernel {series}"))?;
        }
    }
    Ok(())
}

fn fetch(series: &str, place: &Path) -> Result<()> {
    let prefix = format!("linux-image-{series}.");
    let names = output(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let package = newest(&names).with_context(|| format!("apt offers no {prefix}*-cloud-amd64"))?;
    say(&format!("apt-get download {package}"));
    // Unpacked beside its place, so that half a kernel is never taken for one.
    let beside = place.with_extension("partial");
    if beside.exists() {
        fs::remove_dir_all(&beside).with_context(|| format!("remove {}", beside.display()))?;
    }
    fs::create_dir_all(&beside).with_context(|| format!("make {}", beside.display()))?;
    output(
        Command::new("apt-get")
            .args(["download", "--quiet=2", package])
            .current_dir(&beside),
    )?;
    let files = fs::read_dir(&beside).with_context(|| format!("list {}", beside.display()))?;
    for file in files {
        let file = file.context("list what was fetched")?.path();
        output(Command::new("dpkg").arg("-x").arg(&file).arg(&beside))?;
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    fs::rename(&beside, place).with_context(|| format!("make {}", place.display()))
}

/// The newest of the packages that are a kernel for virtual machines, by the numbers in its name.
fn newest(names: &str) -> Option<&str> {
    let numbers = |name: &str| -> Vec<u32> {
        name.split(|character: char| !character.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    names
        .lines()
        .filter(|name| name.ends_with("-cloud-amd64"))
        .max_by_key(|name| numbers(name))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_is_chosen_by_number() {
        let names = "linux-image-6.1.0-9-cloud-amd64\n\
                     linux-image-6.1.0-56-cloud-amd64\n\
                     linux-image-6.1.0-57-cloud-amd64-dbg\n\
                     linux-image-6.1.0-58-amd64\n";
        assert_eq!(newest(names), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("linux-image-6.1.0-58-amd64\n"), None);
    }
}
