//! What the kernel lets dtm load.

use std::path::{Path, PathBuf};

use crate::bpf::{Kernel, KernelTypes, Limits};

/// The fewest that the kernel side can be loaded with.
const SLOTS: u32 = 64;

/// What came of loading everything that dtm loads. It is taken off again by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Whether the kernel's type information can be read, or why not.
    pub(super) types: Result<(), String>,
    /// What runs where the programs could be loaded, or why they could not.
    pub(super) programs: Result<Programs, String>,
}

/// What the kernel takes besides the classifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    /// The tracepoint of drops.
    pub(super) drops: bool,
    /// It gives reasons.
    pub(super) reasons: bool,
    /// The programs of control groups, or why not.
    pub(super) groups: Result<(), String>,
    /// The tracepoints that tell of control groups, or why not.
    pub(super) births: Result<(), String>,
    /// The program of uplinks, or why not.
    pub(super) uplinks: Result<(), String>,
}

impl Loaded {
    /// Loads everything, and takes it off again.
    pub(super) async fn try_all(btf: &Path) -> Self {
        let btf = PathBuf::from(btf);
        let load = move || {
            let types = KernelTypes::read(&btf).map(drop).map_err(|error| text(&error));
            let kernel = Kernel::load(
                &btf,
                Limits {
                    slots: SLOTS,
                    ..Limits::default()
                },
            );
            let kernel = kernel.map(|kernel| {
                let groups = kernel.template().cgroup(0).map(drop);
                let uplinks = kernel.template().uplink(0).map(drop);
                let [groups, uplinks] = [groups, uplinks].map(|loaded| loaded.map_err(|error| text(&error)));
                (kernel, groups, uplinks)
            });
            (types, kernel.map_err(|error| text(&error)))
        };
        let (types, kernel) = match tokio::task::spawn_blocking(load).await {
            Ok(loaded) => loaded,
            Err(panicked) => (Ok(()), Err(panicked.to_string())),
        };
        let programs = kernel.map(|(mut kernel, groups, uplinks)| Programs {
            drops: kernel.drops.is_some(),
            reasons: kernel.reasons.not_specified().is_some(),
            groups,
            uplinks,
            births: kernel.watch_cgroups().map(drop).map_err(|error| text(&error)),
        });
        Self { types, programs }
    }
}

fn text(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
