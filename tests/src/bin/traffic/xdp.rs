//! The smallest XDP program, attached by a link that ends with this process.

use std::io;

use anyhow::{Result, ensure};

use crate::packets::index;

/// Commands, a program type and an attach type of `include/uapi/linux/bpf.h`.
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;

/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// The part of `union bpf_attr` that loading needs.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    licence: u64,
    rest: [u64; 8],
}

/// The part that attaching needs.
#[repr(C)]
struct Create {
    program: libc::c_int,
    interface: libc::c_int,
    attach_type: u32,
    flags: u32,
    rest: [u64; 8],
}

/// Attaches it to `interface` and waits to be ended.
pub(crate) fn pass(interface: &str) -> Result<()> {
    let program = bpf(
        PROG_LOAD,
        &Load {
            kind: PROG_TYPE_XDP,
            instructions: PASS.len() as u32,
            program: PASS.as_ptr() as u64,
            licence: c"GPL".as_ptr() as u64,
            rest: [0; 8],
        },
    )?;
    bpf(
        LINK_CREATE,
        &Create {
            program,
            interface: index(interface)?,
            attach_type: ATTACH_TYPE_XDP,
            flags: 0,
            rest: [0; 8],
        },
    )?;
    println!("attached");
    loop {
        std::thread::park();
    }
}

/// A call that gives a file descriptor, which lives as long as this process.
fn bpf<T>(command: libc::c_int, attributes: &T) -> Result<libc::c_int> {
    #[expect(unsafe_code, reason = "a raw system call")]
    // SAFETY: the attributes and what they point to live through the call, and their size is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    ensure!(
        result >= 0,
        "bpf command {command}: {}",
        io::Error::last_os_error()
    );
    Ok(libc::c_int::try_from(result)?)
}
