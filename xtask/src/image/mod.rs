//! `cargo xtask image`: a container image of one static binary, without a builder, a registry or a base image.

mod archive;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    setup::{self, Need},
    workspace,
};
use archive::Description;

const DEFAULT_TAG: &str = "dtm:latest";

/// Make the container image, and give it to an engine where one answers.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The image's name.
    #[arg(long, default_value = DEFAULT_TAG)]
    tag: String,
    /// Where the image's archive goes, for `docker load` [default: target/image/dtm-image.tar].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The engine to give it to, as in `DOCKER_HOST` [default: the one docker talks to].
    #[arg(long, value_name = "URL")]
    docker_host: Option<String>,
    /// Make the archive only.
    #[arg(long, conflicts_with = "docker_host")]
    no_load: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Need::Build)?;
    let tag = full_tag(&options.tag)?;
    let output = make(workspace::cargo(), &tag, options.output.clone())?;
    if options.no_load {
        return Ok(());
    }
    load(&output, &tag, options.docker_host.as_deref())
}

/// Makes the archive that the suite `image` loads into its engines, beside suites that do not wait for it.
pub(crate) fn make_for_tests() -> Result<()> {
    make(workspace::idle_cargo(), DEFAULT_TAG, None).map(drop)
}

fn make(cargo: Command, tag: &str, output: Option<PathBuf>) -> Result<PathBuf> {
    let directory = workspace::target().join("image");
    let output = output.unwrap_or_else(|| directory.join("dtm-image.tar"));
    let program = static_binary(cargo, &directory)?;
    let archive = archive::write(&program, &describe(tag))?;
    fs::write(&output, &archive).with_context(|| format!("write {}", output.display()))?;
    println!(
        "{tag}: {} (dtm itself {}), in {}",
        megabytes(archive.len()),
        megabytes(program.len()),
        output.display()
    );
    Ok(output)
}

/// A name without a tag is the latest, as everywhere in Docker.
fn full_tag(tag: &str) -> Result<String> {
    let last = tag.rsplit('/').next().unwrap_or(tag);
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
    let (name, version) = last.split_once(':').unwrap_or((last, "latest"));
    let is_valid = !name.is_empty()
        && !version.is_empty()
        && tag.strip_suffix(version).unwrap_or(tag).chars().all(is_plain);
    ensure!(
        is_valid,
        "{tag:?} is no name of an image: expected something like dtm:latest"
    );
    Ok(if last.contains(':') {
        tag.to_owned()
    } else {
        format!("{tag}:latest")
    })
}

/// dtm without any library, also left in `directory` for those who build images with a Dockerfile.
fn static_binary(mut cargo: Command, directory: &Path) -> Result<Vec<u8>> {
    let triple = workspace::host_triple()?;
    let status = cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "dtm-daemon",
            "--bin",
            "dtm",
        ])
        // With a target named, the flags are not for build scripts and macros, which cannot be static.
        .args(["--target", &triple])
        .env("CARGO_ENCODED_RUSTFLAGS", flags())
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .status()
        .context("start cargo build")?;
    ensure!(status.success(), "dtm does not compile: {status}");
    let built = workspace::target().join(&triple).join("release/dtm");
    let program = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    ensure!(
        !archive::needs_an_interpreter(&program)?,
        "{} is not static: is the C library's static form (libc6-dev's libc.a) missing?",
        built.display()
    );
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let copy = directory.join("dtm");
    fs::copy(&built, &copy).with_context(|| format!("copy {} to {}", built.display(), copy.display()))?;
    Ok(program)
}

/// Static, and the same from whatever directory it is built in. cargo separates flags by this character.
fn flags() -> OsString {
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    let home = dtm_ebpf::cargo_home();
    let places = [(home.as_deref(), "cargo"), (Some(workspace::root()), "dtm")];
    for (from, to) in places {
        let Some(from) = from else { continue };
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}

fn describe(tag: &str) -> Description {
    Description {
        tag: tag.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // The commit's time and not this moment: the same sources give the same image.
        created: git(&[
            "log",
            "-1",
            "--format=%cd",
            "--date=format-local:%Y-%m-%dT%H:%M:%SZ",
        ]),
        revision: git(&["rev-parse", "HEAD"]),
    }
}

/// What git says about these sources; nothing where they lie outside of a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .env("TZ", "UTC")
        .current_dir(workspace::root())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

fn load(archive: &Path, tag: &str, docker_host: Option<&str>) -> Result<()> {
    let docker = || {
        let mut docker = Command::new("docker");
        if let Some(host) = docker_host {
            docker.args(["--host", host]);
        }
        docker.stdin(Stdio::null());
        docker
    };
    let answered = docker()
        .args(["version", "--format", "{{.Server.Version}}"])
        .output();
    let version = match answered {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ if docker_host.is_some() => bail!("no engine answers at {}", docker_host.unwrap_or_default()),
        _ => {
            println!(
                "no engine answers here: `docker load --input {}` where one does",
                archive.display()
            );
            return Ok(());
        }
    };
    let output = docker()
        .args(["load", "--quiet", "--input"])
        .arg(archive)
        .output()
        .context("start docker load")?;
    ensure!(
        output.status.success(),
        "docker load failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    println!("{tag} is loaded into the engine here ({version})");
    Ok(())
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        assert_eq!(full_tag("dtm").unwrap(), "dtm:latest");
        assert_eq!(
            full_tag("registry:5000/a/dtm").unwrap(),
            "registry:5000/a/dtm:latest"
        );
        assert_eq!(full_tag("dtm:V1").unwrap(), "dtm:V1");
        for wrong in ["", "dtm:", ":latest", "Dtm", "a b"] {
            assert!(full_tag(wrong).is_err(), "{wrong:?}");
        }
    }
}
