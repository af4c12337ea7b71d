//! Taking the debug information out of the object.

use anyhow::{Context as _, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// `object` without DWARF, which is three quarters of it: only the type information in `.BTF`, which the compiler
/// derives from it, is read by anybody later.
pub(super) fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("parse the compiled kernel side")?;
    for section in &mut builder.sections {
        let is_dwarf = [".debug_", ".rel.debug_"]
            .iter()
            .any(|prefix| section.name.starts_with(prefix.as_bytes()));
        section.delete |= is_dwarf;
    }
    // LLVM keeps the names of sections among those of symbols; what is written here has them apart.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    // The symbols that stand for the sections go along.
    builder.delete_orphan_symbols();
    let mut stripped = Vec::new();
    builder
        .write(&mut stripped)
        .context("write the kernel side without debug information")?;
    Ok(stripped)
}
