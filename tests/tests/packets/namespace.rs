//! Network namespaces of a test's own and the interfaces in them, made and asked about over netlink: other kernels are
//! tested with nothing but this program.
#![expect(unsafe_code, reason = "namespaces and packet sockets have no safe wrapper")]

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use dtm_common::traffic::Tally;
use dtm_daemon::net::Requests;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, IpVlanMode, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
    },
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// `NLM_F_CREATE | NLM_F_EXCL`.
const NEW: u16 = 0x600;

/// The addresses of frames by [`PacketBuilder`](dtm_tests::packets::PacketBuilder): whose they are, and whom they are for.
pub(crate) const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A network namespace, which goes with this and what is open in it. Nobody speaks in it unasked.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: no descriptors are unshared, only this thread's network.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("make a namespace: this suite needs root");
            // Without IPv6 no interface has anything to say of itself.
            for which in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                fs::write(path, "1").expect("switch IPv6 off");
            }
            File::open("/proc/thread-self/ns/net").expect("proc is mounted")
        });
        Self(made.join().expect("the thread does not panic"))
    }

    /// Does `work` on a thread in the namespace. Sockets opened there stay in it.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let entered = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("enter the namespace");
                work()
            });
            inside.join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn ask<T: Send>(&self, work: impl FnOnce(&mut Requests) -> T + Send) -> T {
        self.enter(|| work(&mut Requests::open().expect("a netlink socket")))
    }

    fn order(&self, message: RouteNetlinkMessage, flags: u16) {
        self.ask(|requests| requests.acknowledged(message, flags).expect("the kernel does it"));
    }

    /// A pair: `name` here with the address [`SENDER`], `peer` in that namespace with [`RECEIVER`]. Both are up.
    pub(crate) fn add_pair(&self, name: &str, peer: &str, there: &Self) {
        let mut other = named(peer);
        other
            .attributes
            .extend([address(RECEIVER), LinkAttribute::NetNsFd(there.0.as_raw_fd())]);
        let mut message = named(name);
        message.attributes.extend([
            address(SENDER),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
            ]),
        ]);
        self.order(RouteNetlinkMessage::NewLink(message), NEW);
        self.switch_on(name);
        there.switch_on(peer);
    }

    /// A macvlan in bridge mode over `parent`, with an address of its own, as Docker makes one.
    pub(crate) fn add_macvlan(&self, name: &str, parent: &str, hardware: [u8; 6]) {
        let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
        let is_made = self.add_over(name, parent, Some(hardware), InfoKind::MacVlan, data);
        assert!(is_made, "this kernel has no macvlan");
    }

    /// An ipvlan of layer 2 over `parent`, as Docker makes one; false where the kernel has none.
    pub(crate) fn add_ipvlan(&self, name: &str, parent: &str) -> bool {
        let data = InfoData::IpVlan(vec![InfoIpVlan::Mode(IpVlanMode::L2)]);
        self.add_over(name, parent, None, InfoKind::IpVlan, data)
    }

    /// A VLAN over `parent`, up; false where the kernel has none.
    pub(crate) fn add_vlan(&self, name: &str, parent: &str, id: u16) -> bool {
        let data = InfoData::Vlan(vec![InfoVlan::Id(id)]);
        let is_made = self.add_over(name, parent, None, InfoKind::Vlan, data);
        if is_made {
            self.switch_on(name);
        }
        is_made
    }

    /// A device over another; false where the kernel does not know the kind.
    fn add_over(
        &self,
        name: &str,
        parent: &str,
        hardware: Option<[u8; 6]>,
        kind: InfoKind,
        data: InfoData,
    ) -> bool {
        let mut message = named(name);
        message.attributes.extend(hardware.map(address));
        message.attributes.extend([
            LinkAttribute::Link(self.index(parent)),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
        ]);
        let made = self.ask(|requests| requests.acknowledged(RouteNetlinkMessage::NewLink(message), NEW));
        match made {
            Ok(()) => true,
            Err(error) if error.is(libc::EOPNOTSUPP) => false,
            Err(error) => panic!("make {name}: {error}"),
        }
    }

    /// Moves an interface to another namespace, where it is down.
    pub(crate) fn hand_over(&self, name: &str, to: &Self) {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name);
        message.attributes.push(LinkAttribute::NetNsFd(to.0.as_raw_fd()));
        self.order(RouteNetlinkMessage::SetLink(message), 0);
    }

    pub(crate) fn switch_on(&self, name: &str) {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.order(RouteNetlinkMessage::SetLink(message), 0);
    }

    /// Gives an interface an address in a network of 256.
    pub(crate) fn add_address(&self, name: &str, ip: Ipv4Addr) {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 24;
        message.header.index = self.index(name);
        message.attributes = vec![
            AddressAttribute::Local(ip.into()),
            AddressAttribute::Address(ip.into()),
        ];
        self.order(RouteNetlinkMessage::NewAddress(message), NEW);
    }

    pub(crate) fn index(&self, name: &str) -> u32 {
        self.link(name).header.index
    }

    /// What the kernel itself has counted at an interface, as its owner sees it: received and sent, in bytes and
    /// packets.
    pub(crate) fn counted(&self, name: &str) -> [(u64, u64); 2] {
        let link = self.link(name);
        let statistics = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(statistics) => Some(statistics),
            _ => None,
        });
        let statistics = statistics.expect("every interface has them");
        [
            (statistics.rx_bytes, statistics.rx_packets),
            (statistics.tx_bytes, statistics.tx_packets),
        ]
    }

    fn link(&self, name: &str) -> LinkMessage {
        let question = RouteNetlinkMessage::GetLink(named(name));
        let answer = self.ask(|requests| requests.get(question));
        match answer.expect("the interface is there") {
            RouteNetlinkMessage::NewLink(link) => link,
            other => panic!("no link: {other:?}"),
        }
    }

    /// Sends `frame` out of an interface, `times` over.
    pub(crate) fn send(&self, name: &str, frame: &[u8], times: usize) {
        let index = self.index(name);
        self.enter(|| {
            // SAFETY: no pointers.
            let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(
                socket >= 0,
                "a packet socket: {}",
                std::io::Error::last_os_error()
            );
            // SAFETY: the descriptor was just made, for us alone.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            // SAFETY: all zeroes is a valid address.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            to.sll_family = libc::AF_PACKET as libc::sa_family_t;
            to.sll_ifindex = index.cast_signed();
            for _ in 0..times {
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
                assert_eq!(
                    sent,
                    frame.len().cast_signed(),
                    "{}",
                    std::io::Error::last_os_error()
                );
            }
        });
    }
}

/// The same frame the other way.
pub(crate) fn answer(frame: &[u8]) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..]].concat()
}

/// Bytes and packets of a tally, to be compared with the kernel's.
pub(crate) fn bytes_and_packets(tally: Tally) -> (u64, u64) {
    (tally.bytes, tally.packets)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn address(hardware: [u8; 6]) -> LinkAttribute {
    LinkAttribute::Address(hardware.to_vec())
}
