//! The kernel side as the daemon holds it: loaded programs, their maps, and the ways to attach them.
//!
//! Nothing outside this folder makes a bpf(2) call or a traffic-control message.

mod attach;
mod attachment;
mod btf;
mod cgroups;
mod clsact;
mod counters;
mod drop_counter;
mod drops;
mod flows;
mod held;
mod instance;
mod kernel;
mod listing;
mod load;
mod mapping;
mod missed;
mod owners;
mod peers;
mod pins;
mod record;
mod side;
mod standing;
mod symbols;
mod sys;
mod taking_over;
mod tcp;
mod types;
mod uplinks;
mod views;

pub use attach::{AttachError, Attacher};
pub use attachment::{Attachment, Mode};
pub use btf::{DropReasons, KernelTypes};
pub use cgroups::{CgroupEvent, CgroupWatch};
pub use clsact::ClsactFilter;
pub use counters::CounterBanks;
pub use drops::DropMap;
pub use flows::FlowMap;
pub use held::take_off;
pub use instance::{Counts, Template};
pub use kernel::{Kernel, Limits, MapUse};
pub use missed::Missed;
pub use owners::Owners;
pub use peers::Peers;
pub use pins::{Bpffs, LinkName, Pin, Pins, ProgramName, Removed, UplinkName, is_bpffs};
pub use side::{Hook, Side};
pub use standing::{Place, Standing};
pub use sys::{CgroupLink, TcxLink, TcxProbe, XdpLink, XdpMode, cgroup_programs, tcx_is_supported};
pub use taking_over::{FORMER, Former, Found, Kept};
pub use tcp::{SocketWalk, TcpMap};
pub use uplinks::{UplinkBanks, UplinkError, UplinkLink};

use crate::net::{NetlinkError, Requests};

/// Takes off every filter of dtm's at an interface, whoever made it, and says how many there were.
pub fn remove_filters(requests: &mut Requests, ifindex: u32) -> Result<usize, NetlinkError> {
    ClsactFilter::remove_all(requests, ifindex)
}

/// Whether an earlier dtm has left something in this BPF file system, in the calling thread's network namespace.
pub fn has_left(bpffs: &std::path::Path) -> bool {
    Pins::any(bpffs)
}

/// The compiled kernel side.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dtm-kernel"));
