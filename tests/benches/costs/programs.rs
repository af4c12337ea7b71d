//! Nanoseconds per packet of each program over one of its kind that does nothing, in test runs by the kernel; and what it
//! costs to load the programs once more.
#![expect(unsafe_code, reason = "raw bpf(2), to run both programs in the same way")]

use std::{
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use dtm_common::index::InterfaceKey;
use dtm_daemon::{
    bpf::{Counts, Kernel, Limits, Template},
    config::DEFAULT_BTF,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use xtask::host::run as output;

use crate::spread;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
pub(crate) const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;

/// Packets of one measurement, and how many measurements.
pub(crate) const REPEAT: u32 = 1_000_000;
pub(crate) const MEASUREMENTS: usize = 9;

/// Instances loaded for their time.
const INSTANCES: usize = 30;

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

/// `r0 = verdict; exit`.
pub(crate) fn empty_program(prog_type: u32, verdict: i32) -> Result<OwnedFd> {
    let verdict = u64::from(verdict.cast_unsigned());
    let instructions: [u64; 2] = [verdict << 32 | 0xb7, 0x95];
    let license = c"GPL";
    let mut attributes = ProgLoad {
        prog_type,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..ProgLoad::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attributes).context("load an empty program")?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// No interface: an XDP program is told of its packet and of nothing else.
pub(crate) const NO_CONTEXT: u32 = 0;

/// Nanoseconds of one run, the mean of [`REPEAT`].
pub(crate) fn nanoseconds(
    program: &OwnedFd,
    ifindex: u32,
    packet: &[u8],
    gso: Option<(u32, u32)>,
) -> Result<f64> {
    let mut context = [0_u8; CONTEXT];
    context[IFINDEX_AT..IFINDEX_AT + 4].copy_from_slice(&ifindex.to_ne_bytes());
    if let Some((segments, size)) = gso {
        context[GSO_SEGS_AT..GSO_SEGS_AT + 4].copy_from_slice(&segments.to_ne_bytes());
        context[GSO_SIZE_AT..GSO_SIZE_AT + 4].copy_from_slice(&size.to_ne_bytes());
    }
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: REPEAT,
        ctx_size_in: if ifindex == NO_CONTEXT { 0 } else { CONTEXT as u32 },
        ctx_in: if ifindex == NO_CONTEXT {
            0
        } else {
            context.as_ptr() as u64
        },
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attributes).context("run a program over a packet")?;
    Ok(f64::from(attributes.duration))
}

pub(crate) fn run() -> Result<()> {
    let mut kernel = Kernel::load(Path::new(DEFAULT_BTF), Limits::default())?;
    kernel.enter(InterfaceKey { netns: 0, ifindex: 1 }, 0)?;
    let template = kernel.template();
    println!("\nns per packet over an empty program: min / median / max of {MEASUREMENTS} × {REPEAT} runs");
    let (transmit, receive) = kernel.classifiers()?;
    let (fixed, _receive) = template.classifiers(Counts::Slot(1))?;
    let empty = empty_program(BPF_PROG_TYPE_SCHED_CLS, -1)?;
    let programs = [
        ("dtm_transmit", &transmit),
        ("dtm_receive", &receive),
        ("dtm_transmit for one slot", &fixed),
    ];
    compare("TC", &empty, 1, &programs)?;
    let (transmit, receive) = template.cgroup(2)?;
    let empty = empty_program(BPF_PROG_TYPE_CGROUP_SKB, 1)?;
    let programs = [
        ("dtm_cgroup_transmit", &transmit),
        ("dtm_cgroup_receive", &receive),
    ];
    // What stays on the loopback is not counted; any other interface will do.
    at_an_interface(|ifindex| compare("cgroup_skb", &empty, ifindex, &programs))?;
    instances(&template)
}

/// Measures programs of one kind side by side, so that whatever slows the machine slows all of them.
fn compare(kind: &str, empty: &OwnedFd, ifindex: u32, programs: &[(&str, &OwnedFd)]) -> Result<()> {
    // Ethernet, IPv4, TCP, 1,400 bytes.
    let mut packet = vec![0_u8; 1454];
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    packet[14] = 0x45;
    packet[23] = 6;
    packet[46] = 0x50;
    let cases: [(&str, Option<(u32, u32)>); 2] = [
        ("plain packet", None),
        ("TCP buffer of 2 segments", Some((2, 700))),
    ];
    for (case, gso) in cases {
        let mut over = vec![Vec::new(); programs.len()];
        let mut base = Vec::new();
        for _ in 0..MEASUREMENTS {
            let nothing = nanoseconds(empty, ifindex, &packet, gso)?;
            base.push(nothing);
            for (over, (_name, program)) in over.iter_mut().zip(programs) {
                over.push(nanoseconds(program, ifindex, &packet, gso)? - nothing);
            }
        }
        println!("  {case}: empty {kind} program {}", spread(&mut base));
        for ((name, _program), over) in programs.iter().zip(&mut over) {
            println!("  {case}: {name} +{}", spread(over));
        }
    }
    Ok(())
}

/// Does `work` where there is an interface that is no loopback, with its index.
fn at_an_interface(work: impl FnOnce(u32) -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: no descriptors are unshared, only this thread's network.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("make a network namespace")?;
            output(
                Command::new("ip").args(["link", "add", "eth0", "type", "veth", "peer", "name", "peer0"]),
            )?;
            // `index: name: …`
            let shown = output(Command::new("ip").args(["-oneline", "link", "show", "eth0"]))?;
            let index = shown
                .split(':')
                .next()
                .and_then(|index| index.trim().parse().ok());
            work(index.context("the interface has an index")?)
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What is loaded, and how.
type Load<'a> = (&'a str, &'a dyn Fn() -> Result<(OwnedFd, OwnedFd)>);

/// The time and the kernel's memory that it takes to load two programs once more.
fn instances(template: &Template) -> Result<()> {
    println!(
        "\nms to load both programs once more: min / median / max of {INSTANCES}; kB of the kernel's for both"
    );
    let kinds: [Load<'_>; 3] = [
        ("classifiers for a namespace", &|| {
            template.classifiers(Counts::Namespace(7))
        }),
        ("classifiers for one slot", &|| {
            template.classifiers(Counts::Slot(1))
        }),
        ("programs of a control group", &|| template.cgroup(1)),
    ];
    for (kind, load) in kinds {
        let mut times = Vec::with_capacity(INSTANCES);
        let mut memory = 0;
        for _ in 0..INSTANCES {
            let start = Instant::now();
            let (transmit, receive) = load()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            memory = memory_of(&transmit)? + memory_of(&receive)?;
        }
        println!("  {kind}: {}; {} kB", spread(&mut times), memory / 1024);
    }
    Ok(())
}

/// The kernel's memory that a program takes, its machine code included.
fn memory_of(program: &OwnedFd) -> Result<u32> {
    let shown = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let id = shown.lines().find_map(|line| line.strip_prefix("prog_id:"));
    let id: u32 = id.context("a program has a number")?.trim().parse()?;
    let info = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .context("an open program is loaded")?;
    Ok(info.memory_locked()? + info.size_jitted())
}
