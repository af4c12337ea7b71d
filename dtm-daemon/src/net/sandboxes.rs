//! Namespaces that the engine keeps without a process in them.

use std::{fs, fs::File, io, path::PathBuf};

/// What libnetwork calls the sandbox of Swarm's routing mesh.
const INGRESS: &str = "ingress_sbox";

/// The directory where the engine mounts the namespaces it made, each under the name of its sandbox.
#[derive(Debug)]
pub struct Sandboxes {
    directory: PathBuf,
    has_said: bool,
}

impl Sandboxes {
    /// Of the engine whose directory this is; there is none yet where no sandbox ever was.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            has_said: false,
        }
    }

    /// The ingress sandbox's namespace, where there is one. A file that is left of one that is gone is a file like any
    /// other, and the kernel does not take it for a namespace.
    pub fn ingress(&self) -> Option<File> {
        File::open(self.directory.join(INGRESS)).ok()
    }

    /// Says once that the directory cannot be read, to be called when nobody's process explained an interface.
    pub fn say_if_unreadable(&mut self) {
        if self.has_said {
            return;
        }
        let directory = self.directory.display();
        if let Err(error) = fs::read_dir(&self.directory).map(drop) {
            self.has_said = true;
            let hint = match error.kind() {
                io::ErrorKind::NotFound => {
                    "is it mounted here, and is it the engine's? see --path.docker-netns"
                }
                _ => "see --path.docker-netns",
            };
            tracing::warn!(%directory, %error, hint, "Docker's own sandboxes cannot be recognised");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_ingress_sandbox_where_there_is_no_file() {
        let missing = std::env::temp_dir().join("dtm-no-such-directory");
        let mut sandboxes = Sandboxes::new(missing);
        assert!(sandboxes.ingress().is_none());
        sandboxes.say_if_unreadable();
        assert!(sandboxes.has_said);
    }
}
