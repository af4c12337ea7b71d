//! The kernel side as the daemon holds it: loaded programs, their maps, and the ways to attach them.
//!
//! Nothing outside this folder makes a bpf(2) call or a traffic-control message.

mod attach;
mod btf;
mod cgroups;
mod clsact;
mod counters;
mod drops;
mod instance;
mod kernel;
mod listing;
mod load;
mod side;
mod standing;
mod symbols;
mod sys;

pub use attach::{AttachError, Attacher, Attachment, Mode};
pub use btf::{DropReasons, KernelTypes};
pub use cgroups::{CgroupEvent, CgroupWatch};
pub use clsact::ClsactFilter;
pub use counters::CounterBanks;
pub use drops::DropMap;
pub use instance::{Counts, Template};
pub use kernel::{Kernel, Limits, MapUse};
pub use side::{Hook, Side};
pub use standing::{Place, Standing};
pub use sys::{CgroupLink, TcxLink, TcxProbe, cgroup_programs, tcx_is_supported};

/// The compiled kernel side.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dtm-kernel"));
