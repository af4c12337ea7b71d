//! What tcpdump has seen at an interface.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::host::{Host, Running, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

/// tcpdump at work.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Running,
    file: PathBuf,
}

/// A TCP packet over IPv4, of any number of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub source: IpAddr,
    /// The ports it goes from and to.
    pub ports: [u16; 2],
    /// TCP's flags, the eight that everybody knows.
    pub flags: u8,
    /// Its length without the Ethernet header.
    pub length: u64,
}

/// TCP's FIN among [`Packet::flags`].
pub const FIN: u8 = 1;
/// TCP's SYN.
pub const SYN: u8 = 2;
/// TCP's RST.
pub const RST: u8 = 4;

impl Capture {
    /// Begins to look at what passes an interface of the host's over TCP and IPv4.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        let file = host.directory().join("capture.pcap");
        let path = file.to_str().context("a path that is UTF-8")?;
        if file.exists() {
            fs::remove_file(&file).context("remove an old capture")?;
        }
        // Each packet is in the file as soon as it is seen; as much of each as its headers.
        let options = [
            "--immediate-mode",
            "-U",
            "-n",
            "-s",
            "96",
            "-B",
            "16384",
            "-Z",
            "root",
        ];
        let mut tcpdump = host.spawn(
            "tcpdump",
            options.iter().chain(&["-i", interface, "-w", path, "ip and tcp"]),
        )?;
        eventually(PATIENCE, "tcpdump listens", || {
            if let Some(status) = tcpdump.try_wait()? {
                bail!("tcpdump ended with {status}: {}", tcpdump.log());
            }
            // It writes the file's header once it listens.
            let listens = file.metadata().is_ok_and(|file| file.len() >= HEADER as u64);
            Ok(listens.then_some(()))
        })?;
        Ok(Self { tcpdump, file })
    }

    /// The packets so far, once `is_whole` says that they are all there.
    ///
    /// # Errors
    ///
    /// Where that is never so, or where the kernel could not keep up.
    pub fn finish(mut self, is_whole: impl Fn(&[Packet]) -> bool) -> Result<Vec<Packet>> {
        let packets = eventually(PATIENCE, "everything is in the capture", || {
            let packets = parse(&fs::read(&self.file)?)?;
            Ok(is_whole(&packets).then_some(packets))
        });
        self.tcpdump.stop()?;
        let packets = packets.with_context(|| self.tcpdump.log())?;
        let said = self.tcpdump.log();
        let lost = said.lines().rfind(|line| line.contains("dropped by kernel"));
        ensure!(
            lost.is_some_and(|line| line.starts_with("0 ")),
            "tcpdump has not seen everything: {said}"
        );
        Ok(packets)
    }
}

/// Of a pcap file, and of a packet in it.
const HEADER: usize = 24;
const RECORD: usize = 16;
const ETHERNET: usize = 14;

/// All whole packets of a pcap file that was written on this machine; the last one may be on its way.
fn parse(file: &[u8]) -> Result<Vec<Packet>> {
    let mut packets = Vec::new();
    let mut rest = file.get(HEADER..).context("no header of a capture")?;
    while let Some((record, after)) = rest.split_at_checked(RECORD) {
        let word =
            |at: usize| u32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        let (kept, length) = (word(8) as usize, word(12) as usize);
        let Some((packet, after)) = after.split_at_checked(kept) else {
            break;
        };
        packets.push(tcp(packet, length).context("no TCP packet")?);
        rest = after;
    }
    Ok(packets)
}

fn tcp(packet: &[u8], length: usize) -> Option<Packet> {
    let ip = packet.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    let transport = ip.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
    let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
    Some(Packet {
        source: IpAddr::V4(Ipv4Addr::from(source)),
        ports: [port(0)?, port(2)?],
        flags: *transport.get(13)?,
        length: (length - ETHERNET) as u64,
    })
}
