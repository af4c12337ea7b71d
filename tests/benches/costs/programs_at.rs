//! How many programs the kernel has at a place.
#![expect(unsafe_code, reason = "BPF_PROG_QUERY has no wrapper")]

use std::io;

use anyhow::{Context as _, Result};

const BPF_PROG_QUERY: libc::c_long = 16;

/// The programs of this attach type at an interface, by its index, or at a control group, by its descriptor. None where
/// nothing was ever attached.
pub(crate) fn programs_at(target: u32, attach_type: u32) -> Result<u32> {
    // `union bpf_attr` of BPF_PROG_QUERY: the target, attach_type, …; the count is the 7th word.
    let mut attributes = [0_u32; 16];
    attributes[0] = target;
    attributes[1] = attach_type;
    // SAFETY: the attributes live through the call; their pointers are null with a count of 0.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        // What an interface says that has never had one.
        if error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error).context("ask for the programs at a place");
        }
    }
    Ok(attributes[6])
}
