//! The kernel side on other kernels than this machine's: the suite `packets`, whole, in a virtual machine for each.
//!
//! The machines are emulated (no KVM is needed) and have nothing but a busybox and the suite's program, which
//! `cargo xtask test kernels` builds and names in `DTM_PACKETS`; `cargo xtask setup` fetches the kernels.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::host::{Image, Running, run};

/// Emulated, the suite takes four minutes, more while the machine has other work.
const PATIENCE: Duration = Duration::from_mins(15);

/// What the machine's first process does; the last line tells that the suite ended, and how. Generated packets are
/// fewer than on this machine: emulated, each costs a hundred times as much.
const INIT: &str = "#!/bin/sh
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
uname -r
for module in /modules/*; do insmod $module || exit; done
ip link set lo up
PROPTEST_CASES=32 packets --test-threads=1
echo \"ended with $?\"
poweroff -f
";

/// What the suite makes interfaces of and attaches to them with, each after what it needs.
const MODULES: [&str; 10] = [
    "drivers/net/veth",
    "drivers/net/macvlan",
    "drivers/net/ipvlan/ipvlan",
    "net/llc/llc",
    "net/802/stp",
    "net/802/garp",
    "net/802/mrp",
    "net/8021q/8021q",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
];

#[test]
fn on_6_1_every_program_loads_and_counts_the_same() -> Result<()> {
    counts_on("6.1")
}

#[test]
fn on_6_12_every_program_loads_and_counts_the_same() -> Result<()> {
    counts_on("6.12")
}

fn counts_on(series: &str) -> Result<()> {
    let unpacked = kernels()?.join(series);
    let boot = unpacked.join("boot");
    let kernel = fs::read_dir(&boot)
        .with_context(|| format!("no kernel in {}: `cargo xtask setup` fetches it", boot.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| is_named(path, "vmlinuz-"))
        .with_context(|| format!("no kernel in {}", boot.display()))?;
    let directory = tempfile::tempdir().context("make a directory")?;
    let initrd = initrd(directory.path(), &unpacked)?;

    let log = directory.path().join("console");
    let mut machine = Command::new("qemu-system-x86_64");
    machine
        .args([
            "-accel",
            "tcg",
            "-m",
            "1024",
            "-nographic",
            "-no-reboot",
            "-net",
            "none",
        ])
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(&kernel)
        .arg("-initrd")
        .arg(&initrd);
    let mut machine = Running::spawn_logged(&mut machine, &log)?;
    let ended = machine.wait(PATIENCE);
    let console = machine.log();
    let status = ended.with_context(|| console.clone())?;
    ensure!(status.success(), "the machine ended with {status}: {console}");
    assert!(
        console.contains(&format!("{series}.")),
        "another kernel was started: {console}"
    );
    assert!(console.contains("ended with 0"), "{console}");
    let passed = console
        .lines()
        .find_map(|line| line.strip_prefix("test result: ok. "))
        .context("the suite told no result")?;
    // What the suite has here it has there.
    let here = run(Command::new(packets()?).arg("--list"))?;
    let tests = here.lines().filter(|line| line.ends_with(": test")).count();
    assert!(tests > 0);
    assert!(
        passed.starts_with(&format!("{tests} passed; 0 failed; ")),
        "{console}"
    );
    Ok(())
}

/// A root directory with busybox, the suite and the kernel's modules, as the kernel unpacks it into memory.
fn initrd(directory: &Path, unpacked: &Path) -> Result<PathBuf> {
    let program = directory.join("packets");
    // Most of it is information for debuggers.
    run(Command::new("strip").arg("-o").arg(&program).arg(packets()?))?;
    let program = program.to_str().context("a path that is UTF-8")?;
    let root = directory.join("root");
    let mut image = Image::busybox()?
        .with_program(program)?
        .with_executable("/init", INIT.as_bytes())?
        .with_directory("/dev")?;
    for (number, path) in MODULES.into_iter().enumerate() {
        let name = format!("{number:02}-{}", path.replace('/', "-"));
        image = image.with_file(&format!("/modules/{name}.ko"), &module(unpacked, path)?)?;
    }
    image.unpack(&root)?;
    let archive = directory.join("initrd");
    let pack = "find . | busybox cpio -o -H newc";
    let file = fs::File::create(&archive).context("make the archive")?;
    let status = Command::new("sh")
        .args(["-c", pack])
        .current_dir(&root)
        .stdin(Stdio::null())
        .stdout(file)
        .status()
        .context("start busybox cpio")?;
    ensure!(status.success(), "busybox cpio: {status}");
    Ok(archive)
}

/// A module of the kernel unpacked there.
fn module(unpacked: &Path, name: &str) -> Result<Vec<u8>> {
    let versions = unpacked.join("lib/modules");
    let mut entries = fs::read_dir(&versions).with_context(|| format!("list {}", versions.display()))?;
    let version = entries.next().context("no modules beside the kernel")??.path();
    let plain = version.join("kernel").join(format!("{name}.ko"));
    if plain.is_file() {
        return fs::read(&plain).with_context(|| format!("read {}", plain.display()));
    }
    let packed = plain.with_extension("ko.xz");
    let unpacked = Command::new("xz")
        .arg("--decompress")
        .arg("--stdout")
        .arg(&packed)
        .output();
    let unpacked = unpacked.context("start xz")?;
    ensure!(
        unpacked.status.success(),
        "unpack {}: {}",
        packed.display(),
        unpacked.status
    );
    Ok(unpacked.stdout)
}

fn packets() -> Result<PathBuf> {
    let path = env::var_os("DTM_PACKETS");
    path.map(PathBuf::from)
        .context("DTM_PACKETS does not name the suite's program: run `cargo xtask test kernels`")
}

/// Where `cargo xtask setup` puts them: beside the profile that this was built in.
fn kernels() -> Result<PathBuf> {
    let own = env::current_exe().context("find the test's own file")?;
    let target = own
        .ancestors()
        .nth(3)
        .context("the test lies outside a target directory")?;
    Ok(target.join("kernels"))
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(prefix))
}
