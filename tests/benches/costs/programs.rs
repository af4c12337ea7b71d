//! Nanoseconds per packet of each classifier over a program that does nothing, in test runs by the kernel.
#![expect(unsafe_code, reason = "raw bpf(2), to run both programs in the same way")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use dtm_common::index::InterfaceKey;
use dtm_daemon::{
    bpf::{Kernel, Limits},
    config::DEFAULT_BTF,
};

use crate::spread;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// Packets of one measurement, and how many measurements.
const REPEAT: u32 = 1_000_000;
const MEASUREMENTS: usize = 9;

/// `struct __sk_buff`, `include/uapi/linux/bpf.h`: its size and the fields a test run may set.
const CONTEXT: usize = 192;
const IFINDEX_AT: usize = 40;
const GSO_SEGS_AT: usize = 164;
const GSO_SIZE_AT: usize = 176;

/// `union bpf_attr` of the two commands, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    rest: [u64; 4],
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are a live value whose pointers the callers keep alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `r0 = TC_ACT_UNSPEC; exit`.
fn empty_program() -> Result<OwnedFd> {
    let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let license = c"GPL";
    let mut attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..ProgLoad::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attributes).context("load an empty program")?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Nanoseconds of one run, the mean of [`REPEAT`].
fn nanoseconds(program: &OwnedFd, packet: &[u8], gso: Option<(u32, u32)>) -> Result<f64> {
    let mut context = [0_u8; CONTEXT];
    context[IFINDEX_AT..IFINDEX_AT + 4].copy_from_slice(&1_u32.to_ne_bytes());
    if let Some((segments, size)) = gso {
        context[GSO_SEGS_AT..GSO_SEGS_AT + 4].copy_from_slice(&segments.to_ne_bytes());
        context[GSO_SIZE_AT..GSO_SIZE_AT + 4].copy_from_slice(&size.to_ne_bytes());
    }
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: REPEAT,
        ctx_size_in: CONTEXT as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attributes).context("run a program over a packet")?;
    Ok(f64::from(attributes.duration))
}

pub(crate) fn run() -> Result<()> {
    let mut kernel = Kernel::load(Path::new(DEFAULT_BTF), Limits { slots: 64 })?;
    kernel.enter(InterfaceKey { netns: 0, ifindex: 1 }, 0)?;
    let (transmit, receive) = kernel.classifiers()?;
    let empty = empty_program()?;
    // Ethernet, IPv4, TCP, 1,400 bytes.
    let mut packet = vec![0_u8; 1454];
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    packet[14] = 0x45;
    packet[23] = 6;
    packet[46] = 0x50;
    println!("\nns per packet over an empty program: min / median / max of {MEASUREMENTS} × {REPEAT} runs");
    let cases: [(&str, Option<(u32, u32)>); 2] = [
        ("plain packet", None),
        ("TCP buffer of 2 segments", Some((2, 700))),
    ];
    for (case, gso) in cases {
        let mut over: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        let mut base = Vec::new();
        for _ in 0..MEASUREMENTS {
            // Side by side, so that whatever slows the machine slows all three.
            let nothing = nanoseconds(&empty, &packet, gso)?;
            base.push(nothing);
            for (over, program) in over.iter_mut().zip([&transmit, &receive]) {
                over.push(nanoseconds(program, &packet, gso)? - nothing);
            }
        }
        println!("  {case}: empty {}", spread(&mut base));
        for (name, over) in ["dtm_transmit", "dtm_receive"].iter().zip(&mut over) {
            println!("  {case}: {name} +{}", spread(over));
        }
    }
    Ok(())
}
