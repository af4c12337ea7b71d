//! From the making of a container's control group to the programs at it: on the host's network, that is its birth.
#![expect(unsafe_code, reason = "BPF_PROG_QUERY has no wrapper")]

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use dtm_tests::daemon::Dtm;
use xtask::host::{CgroupWorld, Host};

use crate::{pause, percentile};

/// How many groups are made, one after the other.
const BIRTHS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(5);

const BPF_PROG_QUERY: libc::c_long = 16;
/// `enum bpf_attach_type`: what a container receives and what it sends.
const BPF_CGROUP_INET: [u32; 2] = [0, 1];

pub(crate) fn run() -> Result<()> {
    println!(
        "\nms from the making of a container's control group to both programs attached ({BIRTHS} births, one after the \
         other): p50 / p99"
    );
    let host = Host::new(CgroupWorld::V2)?;
    let dtm = Dtm::start(&host, &["--docker.host", "unix:///run/no-docker.sock"])?;
    let mut milliseconds = Vec::new();
    for number in 0..BIRTHS {
        let group = host.cgroup().join(format!("docker-{number:064x}.scope"));
        let waited = birth(&group);
        drop(fs::remove_dir(&group));
        milliseconds.push(waited?.as_secs_f64() * 1e3);
        // As one container after another starts: so fast that programs have to be loaded meanwhile.
        pause(Duration::from_millis(100));
    }
    dtm.stop()?;
    let half = percentile(&mut milliseconds, 50);
    println!("  cgroup: {half:.2} / {:.2}", percentile(&mut milliseconds, 99));
    Ok(())
}

/// Makes the group and waits until both programs are there.
fn birth(group: &std::path::Path) -> Result<Duration> {
    let start = Instant::now();
    fs::create_dir(group).with_context(|| format!("make {}", group.display()))?;
    let opened = File::open(group)?;
    loop {
        if programs(&opened, BPF_CGROUP_INET[0])? > 0 && programs(&opened, BPF_CGROUP_INET[1])? > 0 {
            return Ok(start.elapsed());
        }
        if start.elapsed() > PATIENCE {
            bail!("nothing was attached to {} within {PATIENCE:?}", group.display());
        }
        // The daemon may have no other processor.
        std::thread::yield_now();
    }
}

/// How many programs are at this group itself.
fn programs(group: &File, attach_type: u32) -> Result<u32> {
    // `union bpf_attr` of BPF_PROG_QUERY: target_fd, attach_type, …; the count is the 7th word.
    let mut attributes = [0_u32; 16];
    attributes[0] = group.as_raw_fd().cast_unsigned();
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
        return Err(io::Error::last_os_error()).context("ask for the programs of a control group");
    }
    Ok(attributes[6])
}
