//! What the README tells people to type.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use xtask::host::Engine;

/// The words after `docker` with which the README starts dtm, the image's name last; privileged in the way this machine
/// allows.
///
/// # Errors
///
/// Where the README does not say.
pub fn run_command(engine: &Engine) -> Result<Vec<String>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).context("read README.md")?;
    let readme = readme.replace("\\\n", " ");
    let line = readme
        .lines()
        .find(|line| line.starts_with("docker run") && line.contains("--privileged"));
    let line = line.context("the README starts no dtm")?;
    let words = line.split_whitespace().skip(1).flat_map(|word| {
        if word == "--privileged" {
            engine.privileged().to_vec()
        } else {
            vec![word]
        }
    });
    Ok(words.map(str::to_owned).collect())
}
