//! Wrong flags, variables and files: 64, and one line that names the culprit.

use std::process::Command;

use anyhow::{Context as _, Result};
use dtm_tests::daemon::binary;
use xtask::host::{CgroupWorld, Host};

use crate::{refusals::check, scene::take_turn};

/// What is given, and what the line has to name.
const WRONG: [(&[&str], &str); 20] = [
    (&["--bogus"], "'--bogus'"),
    (&["--lingr=5m"], "'--linger'"),
    (&["bogus"], "'bogus'"),
    (&["serve", "bogus"], "'bogus'"),
    (&["check", "bogus"], "'bogus'"),
    (&["check", "--linger=5m"], "'--linger'"),
    (&["check", "--attach-mode=xdp"], "auto, tcx, clsact"),
    (&["--linger"], "'--linger <DURATION>'"),
    (&["--linger=never"], "'never'"),
    (&["--linger=25h"], "at most 24h"),
    (&["--attach-mode=xdp"], "auto, tcx, clsact"),
    (&["--max-interfaces=0"], "64..=65536"),
    (&["--web.listen-address=nowhere:1"], "'nowhere:1'"),
    (&["--web.listen-address=:99999"], "':99999'"),
    (&["--web.telemetry-path=metrics"], "such as /metrics"),
    (&["--docker.host=ssh://host"], "unix:///path/to/docker.sock"),
    (&["--path.procfs=proc"], "an absolute path"),
    (&["--log.level=loud"], "error, warn, info, debug, trace"),
    (&["--log.format=xml"], "text, json"),
    (&["--config=/nonexistent"], "/nonexistent"),
];

#[test]
fn wrong_flags_are_named() -> Result<()> {
    for (arguments, culprit) in WRONG {
        let mut command = Command::new(binary("dtm")?);
        check(
            command.args(arguments).env_clear(),
            64,
            &[culprit, "try 'dtm --help'"],
        )?;
    }
    Ok(())
}

#[test]
fn wrong_variables_are_named() -> Result<()> {
    for (variable, value) in [
        ("DTM_ATTACH_MODE", "xdp"),
        ("DTM_LINGER", "never"),
        ("DTM_MAX_INTERFACES", "many"),
        ("DOCKER_HOST", "ssh://host"),
    ] {
        let mut command = Command::new(binary("dtm")?);
        check(
            command.env_clear().env(variable, value),
            64,
            &[value, "try 'dtm --help'"],
        )?;
    }
    Ok(())
}

#[test]
fn a_wrong_file_is_named_with_what_is_wrong_in_it() -> Result<()> {
    let _turn = take_turn();
    let host = Host::new(CgroupWorld::V2)?;
    let file = host.directory().join("dtm.toml");
    for (text, culprit) in [
        ("lingr = 1", "\"lingr\""),
        ("linger = \"never\"", "'never'"),
        ("linger = ", "line 1"),
    ] {
        std::fs::write(&file, text).context("write the file")?;
        let mut command = Command::new(binary("dtm")?);
        command.env_clear().arg("--config").arg(&file);
        check(&mut command, 64, &["dtm.toml", culprit, "try 'dtm --help'"])?;
    }
    Ok(())
}
