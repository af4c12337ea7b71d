//! Users of their own for an engine's containers.

use anyhow::{Context as _, Result};

use super::Host;

/// Whose subordinate users the containers get; every distribution has one of this name, and a group.
pub(super) const NAME: &str = "daemon";

const GIVE: &str = r#"
    for file in subuid subgid; do
        echo "$2:200000:65536" >"$1/$file"
        [ -e "/etc/$file" ] || : >"/etc/$file"
        mount --bind "$1/$file" "/etc/$file"
    done
"#;

/// Gives [`NAME`] users and groups to give on, in this host alone.
pub(super) fn give(host: &Host) -> Result<()> {
    let directory = host.directory().to_str().context("a directory that is UTF-8")?;
    host.run("sh", ["-euc", GIVE, "give", directory, NAME]).map(drop)
}
