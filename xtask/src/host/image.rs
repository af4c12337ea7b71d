//! Images made on the spot, without a registry: a busybox, and any program of this machine with its libraries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

use super::Engine;
use super::programs::find_in_path;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n";
const GROUP: &str = "root:x:0:\n";
const DIRECTORIES: [&str; 4] = ["/root", "/tmp", "/proc", "/sys"];

/// An image under construction.
pub struct Image {
    archive: Builder<Vec<u8>>,
    contained: BTreeSet<PathBuf>,
}

impl Image {
    /// One with all of this machine's busybox: a shell, wget, httpd, nc, ping, …
    ///
    /// # Errors
    ///
    /// When the machine has no busybox.
    pub fn busybox() -> Result<Self> {
        let busybox = find_in_path("busybox").context("no busybox: `cargo xtask setup` installs one")?;
        let mut image = Self {
            archive: Builder::new(Vec::new()),
            contained: BTreeSet::new(),
        };
        for directory in DIRECTORIES {
            image.directory(directory)?;
        }
        image.file("/etc/passwd", PASSWD.as_bytes(), 0o644)?;
        image.file("/etc/group", GROUP.as_bytes(), 0o644)?;
        image.program_at(&busybox, "/bin/busybox")?;
        let applets = super::run(Command::new(&busybox).arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            image.link(&format!("/bin/{applet}"), "busybox")?;
        }
        Ok(image)
    }

    /// Adds a program of this machine, found in PATH or given by its path, with the libraries it is linked to.
    pub fn with_program(mut self, program: &str) -> Result<Self> {
        let found = if program.contains('/') {
            Some(PathBuf::from(program))
        } else {
            find_in_path(program)
        };
        let found = found.with_context(|| format!("no {program} on this machine"))?;
        let name = found.file_name().context("a program without a name")?;
        let inside = format!("/usr/bin/{}", name.to_string_lossy());
        self.program_at(&found, &inside)?;
        Ok(self)
    }

    /// Adds a file.
    pub fn with_file(mut self, path: &str, contents: &[u8]) -> Result<Self> {
        self.file(path, contents, 0o644)?;
        Ok(self)
    }

    /// Adds a file that can be run, such as a script.
    pub fn with_executable(mut self, path: &str, contents: &[u8]) -> Result<Self> {
        self.file(path, contents, 0o755)?;
        Ok(self)
    }

    /// Adds an empty directory.
    pub fn with_directory(mut self, path: &str) -> Result<Self> {
        self.directory(path)?;
        Ok(self)
    }

    /// Makes it a directory of files, for those who are no engine.
    pub fn unpack(self, directory: &Path) -> Result<()> {
        let archive = self.archive.into_inner().context("finish the image")?;
        let mut archive = tar::Archive::new(archive.as_slice());
        archive
            .unpack(directory)
            .with_context(|| format!("unpack an image into {}", directory.display()))
    }

    /// Gives it to `engine` as `name`, with a shell as its command.
    pub fn import(self, engine: &Engine, name: &str) -> Result<()> {
        let archive = self.archive.into_inner().context("finish the image")?;
        let arguments = ["import", "--change", "CMD [\"/bin/sh\"]", "-", name];
        engine.docker_with_input(arguments, &archive).map(drop)
    }

    fn program_at(&mut self, program: &Path, inside: &str) -> Result<()> {
        let contents = fs::read(program).with_context(|| format!("read {}", program.display()))?;
        self.file(inside, &contents, 0o755)?;
        for library in libraries(program)? {
            let contents = fs::read(&library).with_context(|| format!("read {library}"))?;
            self.file(&library, &contents, 0o755)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &str, contents: &[u8], mode: u32) -> Result<()> {
        let mut header = header(EntryType::Regular, mode);
        header.set_size(contents.len() as u64);
        self.add(path, |archive, path| {
            archive.append_data(&mut header, path, contents)
        })
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        let mut header = header(EntryType::Directory, 0o755);
        self.add(path, |archive, path| {
            archive.append_data(&mut header, path, std::io::empty())
        })
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777);
        self.add(path, |archive, path| {
            archive.append_link(&mut header, path, target)
        })
    }

    /// Every path once: two programs share their libraries.
    fn add(
        &mut self,
        path: &str,
        append: impl FnOnce(&mut Builder<Vec<u8>>, &Path) -> std::io::Result<()>,
    ) -> Result<()> {
        let path = Path::new(path.trim_start_matches('/'));
        if !self.contained.insert(path.to_path_buf()) {
            return Ok(());
        }
        append(&mut self.archive, path).with_context(|| format!("add {} to the image", path.display()))
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("contained", &self.contained)
            .finish_non_exhaustive()
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

/// The dynamic linker's own answer; a static program has none.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    parse_ldd(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("ldd {}", program.display()))
}

fn parse_ldd(output: &str) -> Result<Vec<String>> {
    if let Some(line) = output.lines().find(|line| line.contains("not found")) {
        anyhow::bail!("{}", line.trim());
    }
    let words = output
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let output = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let libraries = parse_ldd(output).unwrap();
        assert_eq!(
            libraries,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert!(parse_ldd("\tnot a dynamic executable\n").unwrap().is_empty());
        assert!(parse_ldd("\tlibx.so => not found\n").is_err());
    }
}
