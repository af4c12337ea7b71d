//! dtm in a container of the engine that it watches: in the README's words, but in the foreground, and with the dtm that was
//! built with these tests.

use anyhow::{Context as _, Result, ensure};
use xtask::host::{Engine, Image};

use crate::{daemon::binary, readme};

/// An image with that dtm.
const IMAGE: &str = "dtm-under-test";

/// Words of the README's, and what is there instead.
pub type Change = (&'static str, &'static str);

/// Gives the engine the image.
pub fn make_image(engine: &Engine) -> Result<()> {
    let dtm = binary("dtm")?;
    let dtm = dtm.to_str().context("a path that is UTF-8")?;
    Image::busybox()?.with_program(dtm)?.import(engine, IMAGE)
}

/// The words after `docker` that start it, with these changes.
///
/// # Errors
///
/// Where the README has no such words.
pub fn run_command(engine: &Engine, changes: &[Change]) -> Result<Vec<String>> {
    let mut words = readme::run_command(engine)?.join(" ");
    let in_front = [("run -d ", "run "), ("--restart unless-stopped", "--rm")];
    for (from, to) in in_front.iter().chain(changes) {
        ensure!(words.contains(from), "the README does not say {from}");
        words = words.replace(from, to);
    }
    let mut words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    words.pop().context("the image's name")?;
    words.extend([IMAGE, "dtm"].map(str::to_owned));
    Ok(words)
}
