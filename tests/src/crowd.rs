//! Many named interfaces without as many containers: pairs made by hand whose one end is a port of a Docker network's
//! bridge and whose other end is in a real container's namespace. Each is a series of its own.

use std::fmt::Write as _;
use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use xtask::host::{Engine, Host, Network, eventually, run};

use crate::scene::PATIENCE;

/// Ports of one bridge: it takes 1,023, but a frame to all of a thousand overflows the kernel's backlog
/// (`net.core.netdev_max_backlog`), which others use as well.
pub const PORTS: usize = 500;

/// Interfaces of one container on one network.
#[derive(Debug)]
pub struct Crowd {
    /// The container's name.
    pub container: String,
    /// The network's name.
    pub network: String,
    /// The bridge's name.
    pub bridge: String,
    /// Numbers of its interfaces: `h<number>` on the host, `c<number>` in the container.
    pub numbers: std::ops::Range<usize>,
    process: String,
}

impl Crowd {
    /// Starts a container on a new silent network and gives it `numbers` as further interfaces.
    ///
    /// Nobody speaks on them unasked: a multicast report of one would be a thousand packets to all the others.
    pub fn new(engine: &Engine, image: &str, name: &str, numbers: std::ops::Range<usize>) -> Result<Self> {
        let host = engine.host();
        host.run(
            "sysctl",
            [
                "-qw",
                "net.ipv6.conf.all.disable_ipv6=1",
                "net.ipv6.conf.default.disable_ipv6=1",
                "net.ipv4.igmp_link_local_mcast_reports=0",
            ],
        )?;
        let unannounced = "com.docker.network.advertise_addr_nmsgs=0";
        let network = engine.docker(["network", "create", "--opt", unannounced, name])?;
        let bridge = format!("br-{}", &network[..12]);
        engine.docker([
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            name,
            image,
            "sleep",
            "3600",
        ])?;
        let process = engine.docker(["inspect", "--format", "{{.State.Pid}}", name])?;
        let crowd = Self {
            container: name.to_owned(),
            network: name.to_owned(),
            bridge,
            numbers,
            process,
        };
        crowd.in_container(
            "sysctl",
            [
                "-qw",
                "net.ipv6.conf.all.disable_ipv6=1",
                "net.ipv6.conf.default.disable_ipv6=1",
                "net.ipv4.igmp_link_local_mcast_reports=0",
            ],
        )?;
        crowd.add(host)?;
        Ok(crowd)
    }

    fn add(&self, host: &Host) -> Result<()> {
        let Self {
            bridge,
            numbers,
            process,
            container,
            ..
        } = self;
        let mut outside = String::new();
        let mut inside = String::new();
        for number in numbers.clone() {
            writeln!(
                outside,
                "link add h{number} up master {bridge} type veth peer name c{number} netns {process}"
            )?;
            writeln!(inside, "link set c{number} up")?;
        }
        host.run("ip", ["-batch", path(&batch(host, container, &outside)?)?])?;
        self.in_container(
            "ip",
            [
                "-batch",
                path(&batch(host, &format!("{container}-inside"), &inside)?)?,
            ],
        )?;
        self.wait_forwarding(host)
    }

    /// Until every port forwards: a bridge hears of its ports' carriers from a queue that the kernel works off a hundred
    /// at a time, and what it sends before that passes by those that wait.
    fn wait_forwarding(&self, host: &Host) -> Result<()> {
        // `BR_STATE_FORWARDING` of the kernel's `if_bridge.h`.
        const FORWARDING: &str = "3";
        let class = host.outside("/sys/class/net");
        let mut waiting: Vec<usize> = self.numbers.clone().collect();
        eventually(PATIENCE, "all ports forward", || {
            let mut states = Vec::new();
            for number in std::mem::take(&mut waiting) {
                let file = class.join(format!("h{number}/brport/state"));
                let state = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
                if state.trim() != FORWARDING {
                    states.push(number);
                }
            }
            waiting = states;
            Ok(waiting.is_empty().then_some(()))
        })
    }

    /// Takes some of the interfaces away.
    pub fn remove(&self, host: &Host, numbers: std::ops::Range<usize>) -> Result<()> {
        let mut lines = String::new();
        for number in numbers {
            writeln!(lines, "link del h{number}")?;
        }
        host.run(
            "ip",
            [
                "-batch",
                path(&batch(host, &format!("{}-less", self.container), &lines)?)?,
            ],
        )
        .map(drop)
    }

    /// Runs a program of the machine's in the container's network.
    pub fn in_container<const N: usize>(&self, program: &str, arguments: [&str; N]) -> Result<String> {
        let mut command = std::process::Command::new("nsenter");
        command
            .args(["--net", "--target", &self.process, "--", program])
            .args(arguments);
        run(&mut command)
    }

    /// The labels of an interface's series.
    pub fn labels<'a>(&'a self, interface: &'a str) -> [(&'a str, &'a str); 3] {
        [
            ("name", &self.container),
            ("network", &self.network),
            ("interface", interface),
        ]
    }

    /// Sends `count` frames of `size` bytes to the bridge itself, from the container's end of an interface.
    pub fn send(&self, host: &Host, number: usize, count: usize, size: usize) -> Result<()> {
        let address = fs::read_to_string(host.outside(&format!("/sys/class/net/{}/address", self.bridge)))
            .context("read the bridge's address")?;
        let mut to = [0; 6];
        for (byte, text) in to.iter_mut().zip(address.trim().split(':')) {
            *byte = u8::from_str_radix(text, 16).context("a hardware address")?;
        }
        self.send_to(to, number, count, size)
    }

    /// Sends frames of `size` bytes from one interface to all others of the network, and waits until they are there.
    pub fn broadcast(&self, host: &Host, number: usize, count: usize, size: usize) -> Result<()> {
        let received = || -> Result<u64> {
            let counted = kernel(host)?;
            let names = self.numbers.clone().map(|number| format!("h{number}"));
            Ok(names
                .filter_map(|name| counted.get(&name))
                .map(|moved| moved.0)
                .sum())
        };
        let others = kernel(host)?.keys().filter(|name| self.has(name)).count() as u64 - 1;
        for _ in 0..count {
            // One at a time: more at once do not fit into the kernel's backlog.
            let before = received()?;
            self.send_to([0xff; 6], number, 1, size)?;
            eventually(PATIENCE, "all have received a frame", || {
                Ok((received()? >= before + others * size as u64).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Whether a host end is one of these.
    fn has(&self, name: &str) -> bool {
        let number = name.strip_prefix('h').and_then(|number| number.parse().ok());
        number.is_some_and(|number| self.numbers.contains(&number))
    }

    fn send_to(&self, to: [u8; 6], number: usize, count: usize, size: usize) -> Result<()> {
        let mut frame = vec![0; size];
        frame[..6].copy_from_slice(&to);
        // Locally administered, and a protocol nobody speaks (local experimental).
        frame[6..14].copy_from_slice(&[0x02, 0, 0, 0, (number >> 8) as u8, number as u8, 0x88, 0xb5]);
        // Not kept: the namespace has to end with the container.
        let inside = Network::of_process(self.process.parse().context("a process id")?)?;
        inside.enter(|| send(&format!("c{number}"), count, &frame))?
    }
}

/// What the kernel has counted at the host ends of all crowds, as the container sees it: (received, transmitted) bytes
/// by name.
pub fn kernel(host: &Host) -> Result<std::collections::HashMap<String, (u64, u64)>> {
    let class = host.outside("/sys/class/net");
    let mut counted = std::collections::HashMap::new();
    for entry in fs::read_dir(&class)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let read = |file: &str| -> Result<u64> {
            let path = class.join(&name).join("statistics").join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(text.trim().parse()?)
        };
        // The loopback moves by being asked for this.
        if name
            .strip_prefix('h')
            .is_some_and(|number| number.parse::<usize>().is_ok())
        {
            let moved = (read("tx_bytes")?, read("rx_bytes")?);
            counted.insert(name, moved);
        }
    }
    Ok(counted)
}

fn batch(host: &Host, name: &str, lines: &str) -> Result<PathBuf> {
    let path = host.directory().join(format!("{name}.batch"));
    fs::write(&path, lines).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn path(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("a path that is UTF-8")
}

#[expect(unsafe_code, reason = "packet sockets have no wrapper")]
fn send(interface: &str, count: usize, frame: &[u8]) -> Result<()> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a string that ends in a zero and lives through the call.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(ifindex != 0, "no interface {interface}");
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    ensure!(socket >= 0, std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made, for us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeroes is a valid address.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as libc::sa_family_t;
    to.sll_ifindex = ifindex.cast_signed();
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&frame[..6]);
    for _ in 0..count {
        // SAFETY: frame and address live through the call, and their sizes are told.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        ensure!(
            usize::try_from(sent).is_ok_and(|sent| sent == frame.len()),
            "send a frame: {}",
            std::io::Error::last_os_error()
        );
    }
    Ok(())
}
