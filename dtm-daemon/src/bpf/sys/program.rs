//! Loading a program whose instructions name their maps by descriptor.

use std::{
    ffi::CStr,
    fmt, io,
    os::fd::{FromRawFd as _, OwnedFd},
};

use aya_obj::generated::bpf_insn;
use dtm_common::traffic::Direction;

use super::{bpf, cgroup};

const BPF_PROG_LOAD: libc::c_long = 5;

const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;

/// Bytes of a name, `BPF_OBJ_NAME_LEN`, its terminating zero included.
pub(super) const NAME_BYTES: usize = 16;

/// What the verifier may say at most, and what of it is worth reading: the end says what it did not like.
const LOG_BYTES: u32 = 4 << 20;
const LOG_TOLD: usize = 4 << 10;

/// A signal may interrupt the verifier (`EAGAIN`), so often at most.
const ATTEMPTS: usize = 5;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bpf) enum ProgramType {
    /// A TC hook.
    Classifier,
    /// The sockets of a control group.
    CgroupSkb(Direction),
    /// What arrives at an interface.
    Xdp,
}

/// Why a program was not loaded.
#[derive(Debug)]
pub(in crate::bpf) struct LoadError {
    error: io::Error,
    /// The end of what the verifier said; empty where it was not the verifier.
    log: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.log.is_empty() {
            f.write_str("the kernel refused the program")
        } else {
            write!(f, "the kernel's verifier refused the program: {}", self.log)
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_BYTES],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Loads a program. The maps its instructions name must be open, under the numbers that they have in them.
pub(in crate::bpf) fn load(
    program: ProgramType,
    name: &str,
    license: &CStr,
    instructions: &[bpf_insn],
) -> Result<OwnedFd, LoadError> {
    let (prog_type, expected_attach_type) = match program {
        ProgramType::Classifier => (BPF_PROG_TYPE_SCHED_CLS, 0),
        // Without an attach type, which nothing asks for: kernels before 5.9 know none.
        ProgramType::Xdp => (BPF_PROG_TYPE_XDP, 0),
        ProgramType::CgroupSkb(direction) => (BPF_PROG_TYPE_CGROUP_SKB, cgroup::attach_type(direction)),
    };
    let attributes = |log: &mut [u8]| ProgLoad {
        prog_type,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buf: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        prog_name: object_name(name),
        expected_attach_type,
        ..ProgLoad::default()
    };
    let error = match load_once(attributes(&mut [])) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Only now is it worth while to have the verifier write down what it sees.
    let mut log = vec![0; LOG_BYTES as usize];
    match load_once(attributes(&mut log)) {
        Ok(program) => Ok(program),
        // Its words, or the lack of room for them, are not the reason.
        Err(_) => Err(LoadError {
            error,
            log: end_of(&log),
        }),
    }
}

fn load_once(mut attributes: ProgLoad) -> io::Result<OwnedFd> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // SAFETY: instructions, licence and log outlive the call, with the lengths that are told.
        match unsafe { bpf(BPF_PROG_LOAD, &mut attributes) } {
            // SAFETY: the kernel has just made this descriptor, for us alone.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && attempts < ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

/// The last whole lines of a log.
fn end_of(log: &[u8]) -> String {
    let written = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let start = written.len().saturating_sub(LOG_TOLD);
    let end = &written[start..];
    let from = match end.iter().position(|byte| *byte == b'\n') {
        Some(newline) if start > 0 => newline + 1,
        _ => 0,
    };
    String::from_utf8_lossy(&end[from..]).trim().to_owned()
}

/// As much of `name` as there is room for.
pub(super) fn object_name(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let room = bytes.iter_mut().take(NAME_BYTES - 1);
    for (byte, character) in room.zip(name.bytes()) {
        *byte = character;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_told_from_a_whole_line_on() {
        let mut log = "12: (b7) r0 = 0\n".repeat(10_000).into_bytes();
        log.extend(b"invalid mem access\nprocessed 7 insns\n\0\0\0");
        let told = end_of(&log);
        assert!(told.starts_with("12: (b7) r0 = 0\n"), "{told}");
        assert!(told.ends_with("invalid mem access\nprocessed 7 insns"), "{told}");
        assert!(told.len() <= LOG_TOLD);
        assert_eq!(end_of(b"short\n\0\0"), "short");
        assert_eq!(end_of(&[0; 8]), "");
    }

    #[test]
    fn a_name_is_cut_to_what_the_kernel_keeps() {
        assert_eq!(&object_name("dtm_cgroup_receive"), b"dtm_cgroup_rece\0");
        assert_eq!(&object_name("dtm_receive"), b"dtm_receive\0\0\0\0\0");
    }

    #[test]
    fn what_is_no_program_is_refused_with_a_reason() {
        let error = load(ProgramType::Classifier, "dtm_nothing", c"GPL", &[]).unwrap_err();
        assert!(error.to_string().starts_with("the kernel"), "{error}");
    }

    #[test]
    fn a_refusal_has_the_verifiers_words() {
        // SAFETY: an instruction is eight bytes, any of them; this is `exit`.
        let exit: bpf_insn = unsafe { std::mem::transmute([0x95_u8, 0, 0, 0, 0, 0, 0, 0]) };
        let error = load(ProgramType::Classifier, "dtm_nothing", c"GPL", &[exit]).unwrap_err();
        // Without root it gets no further than the door.
        let is_refused = error.error.raw_os_error() == Some(libc::EPERM);
        assert!(is_refused || error.to_string().contains("R0 !read_ok"), "{error}");
    }
}
