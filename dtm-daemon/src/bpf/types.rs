//! The running kernel's types, for programs that the verifier checks against them.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use aya::Btf;

/// Megabytes that take longer to read than everything else at a start: they are read once, and only where a program is
/// loaded that needs them.
pub(super) struct Types {
    path: PathBuf,
    read: OnceCell<Btf>,
}

impl Types {
    /// Those in this file.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            read: OnceCell::new(),
        }
    }

    /// All of them.
    pub(super) fn get(&self) -> anyhow::Result<&Btf> {
        if let Some(types) = self.read.get() {
            return Ok(types);
        }
        let types = Btf::parse_file(&self.path, aya::Endianness::default());
        let types = types.with_context(|| format!("read {}", self.path.display()))?;
        Ok(self.read.get_or_init(|| types))
    }
}
