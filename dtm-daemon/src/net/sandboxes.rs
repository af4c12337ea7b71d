//! Namespaces that the engine keeps without a process in them.

use std::{
    fs,
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What libnetwork calls the sandbox of Swarm's routing mesh.
const INGRESS: &str = "ingress_sbox";

/// How the names of the sandboxes of Swarm's load balancers begin: one for each network with services.
const LOAD_BALANCER: &str = "lb_";

/// The beginning of an overlay network's id, out of the name of the namespace that its bridge and host ends are hidden
/// in: `<epoch>-<the id's first ten digits>` (libnetwork's `overlay.initSandbox` and `osl.GenerateKey`).
pub fn hidden_network(name: &str) -> Option<&str> {
    let (epoch, id) = name.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = |text: &str| {
        text.len() >= 8
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    };
    (is_number(epoch) && is_id(id)).then_some(id)
}

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

    /// The namespaces of Swarm's load balancers.
    pub fn load_balancers(&self) -> Vec<File> {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return Vec::new();
        };
        let is_balancer =
            |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(LOAD_BALANCER);
        entries
            .flatten()
            .filter(is_balancer)
            .filter_map(|entry| File::open(entry.path()).ok())
            .collect()
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

/// The network namespace that is mounted at `path`, and its inode.
///
/// # Errors
///
/// `NotFound` where there is nothing, another where it is a file like any other.
pub fn mounted_netns(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    // `NSFS_MAGIC` of `linux/magic.h`.
    if rustix::fs::fstatfs(&file)?.f_type != 0x6e73_6673 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let inode = file.metadata()?.ino();
    Ok((file, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_networks_namespace_has_a_piece_of_its_id_in_its_name() {
        assert_eq!(hidden_network("1-q3fqy0zgcp"), Some("q3fqy0zgcp"));
        assert_eq!(hidden_network("12-q3fqy0zgc"), Some("q3fqy0zgc"));
        for other in [
            "ingress_sbox",
            "lb_q3fqy0zgc",
            "a3d1c9be0f42",
            "default",
            "-q3fqy0zgcp",
            "1-",
            "1-UPPER00000",
            "",
        ] {
            assert_eq!(hidden_network(other), None, "{other}");
        }
    }

    #[test]
    fn there_is_no_ingress_sandbox_where_there_is_no_file() {
        let missing = std::env::temp_dir().join("dtm-no-such-directory");
        let mut sandboxes = Sandboxes::new(missing);
        assert!(sandboxes.ingress().is_none());
        sandboxes.say_if_unreadable();
        assert!(sandboxes.has_said);
    }
}
