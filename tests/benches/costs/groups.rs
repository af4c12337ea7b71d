//! From the making of a container's control group to the programs at it: on the host's network, that is its birth.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use dtm_tests::daemon::Dtm;
use xtask::host::{CgroupWorld, Host};

use crate::{pause, percentile, programs_at::programs_at};

/// How many groups are made, one after the other.
const BIRTHS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(5);

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
fn birth(group: &Path) -> Result<Duration> {
    let start = Instant::now();
    fs::create_dir(group).with_context(|| format!("make {}", group.display()))?;
    let opened = File::open(group)?;
    loop {
        let target = opened.as_raw_fd().cast_unsigned();
        if programs_at(target, BPF_CGROUP_INET[0])? > 0 && programs_at(target, BPF_CGROUP_INET[1])? > 0 {
            return Ok(start.elapsed());
        }
        if start.elapsed() > PATIENCE {
            bail!("nothing was attached to {} within {PATIENCE:?}", group.display());
        }
        // The daemon may have no other processor.
        std::thread::yield_now();
    }
}
