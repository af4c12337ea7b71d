//! `cargo xtask build-ebpf`: the kernel side alone.

use std::fs;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

use crate::{
    setup::{self, Need},
    workspace,
};

/// Build the kernel side alone and say what is in it.
#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(_options: &Options) -> Result<()> {
    setup::ensure(Need::Build)?;
    let path = dtm_ebpf::build(&workspace::target().join("bpf"))?;
    let object = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    println!("{}: {} bytes", path.display(), object.len());
    if object.is_empty() {
        println!("{} is set: it is empty", dtm_ebpf::SKIP_VARIABLES.join(" or "));
        return Ok(());
    }
    for program in programs(&object).with_context(|| format!("parse {}", path.display()))? {
        println!("{program}");
    }
    Ok(())
}

/// Each program with its kind and its length in instructions.
fn programs(object: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(object)?;
    let mut programs = Vec::new();
    for symbol in file.symbols() {
        let Some(section) = symbol
            .section_index()
            .filter(|_| symbol.kind() == SymbolKind::Text)
        else {
            continue;
        };
        let section = file.section_by_index(section)?;
        let section = section.name()?;
        // What is there are functions that programs call.
        if section == ".text" {
            continue;
        }
        let instructions = symbol.size() / 8;
        programs.push(format!(
            "  {:<16} {section:<20} {instructions:>5} instructions",
            symbol.name()?
        ));
    }
    programs.sort();
    Ok(programs)
}
