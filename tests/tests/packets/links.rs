//! The programs at real control groups, counting what real sockets send and receive.
#![expect(unsafe_code, reason = "what others do to a group is done by raw system calls")]

use std::{
    fs::File,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use dtm_common::traffic::{Direction, Tally};
use dtm_daemon::bpf::{CgroupLink, Kernel, cgroup_programs};

use crate::{
    banks::{Banks, Growth, from_fdinfo, info},
    groups::{Group, Hierarchy, own_name},
    instances::kernel,
    namespace::Namespace,
};

const SLOT: u32 = 6;

const INSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// IPv4 and UDP.
const HEADERS: u64 = 20 + 8;

/// Both programs at a group.
struct Linked {
    _kernel: Kernel,
    programs: [OwnedFd; 2],
    links: [CgroupLink; 2],
    banks: Banks,
}

const DIRECTIONS: [Direction; 2] = [Direction::Transmit, Direction::Receive];

impl Linked {
    fn new(group: &Group) -> Self {
        let kernel = kernel();
        let (transmit, receive) = kernel.template().cgroup(SLOT).expect("the verifier takes them");
        let directory = group.open();
        let link = |program: &OwnedFd, direction| {
            CgroupLink::create(program.as_fd(), directory.as_fd(), direction).expect("the kernel links it")
        };
        Self {
            _kernel: kernel,
            banks: Banks::of(&info(&transmit)),
            links: [
                link(&transmit, Direction::Transmit),
                link(&receive, Direction::Receive),
            ],
            programs: [transmit, receive],
        }
    }

    fn ids(&self) -> [u32; 2] {
        [&self.programs[0], &self.programs[1]].map(|program| info(program).id())
    }
}

/// Two namespaces joined by a pair, and a group of whose processes one is in the first.
struct Scene {
    hierarchy: Hierarchy,
    inside: Namespace,
    outside: Namespace,
}

impl Scene {
    fn new() -> Self {
        let (inside, outside) = (Namespace::new(), Namespace::new());
        inside.add_pair("eth0", "peer0", &outside);
        inside.switch_on("lo");
        inside.add_address("eth0", INSIDE);
        outside.add_address("peer0", OUTSIDE);
        Self {
            hierarchy: Hierarchy::unified(),
            inside,
            outside,
        }
    }
}

fn bind(namespace: &Namespace, address: Ipv4Addr) -> UdpSocket {
    let socket = namespace
        .enter(|| UdpSocket::bind((address, 0)))
        .expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a limit");
    socket
}

/// Sends `count` datagrams of `size` bytes, each received before the next.
fn send(from: &UdpSocket, to: &UdpSocket, count: usize, size: usize) {
    let address = to.local_addr().expect("it is bound");
    let mut buffer = vec![0; 65_536];
    for _ in 0..count {
        from.send_to(&vec![7; size], address).expect("it is sent");
        assert_eq!(to.recv(&mut buffer).expect("it comes"), size);
    }
}

fn tally(count: u64, size: u64) -> Tally {
    Tally {
        bytes: count * (size + HEADERS),
        packets: count,
        wire_bytes: count * (size + HEADERS),
    }
}

#[test]
fn a_groups_sockets_are_counted_to_the_byte_and_nobody_elses() {
    let scene = Scene::new();
    let name = own_name("sockets");
    let group = scene.hierarchy.make(&name);
    let nested = scene.hierarchy.make(&format!("{name}/nested"));
    let mut linked = Linked::new(&group);
    // A socket is its maker's group's for ever: these two are nobody's.
    let peer = bind(&scene.outside, OUTSIDE);
    let neighbour = bind(&scene.inside, INSIDE);
    let [own, below, loopback] = group.hold(&scene.hierarchy, || {
        let below = nested.hold(&scene.hierarchy, || bind(&scene.inside, INSIDE));
        [
            bind(&scene.inside, INSIDE),
            below,
            bind(&scene.inside, Ipv4Addr::LOCALHOST),
        ]
    });
    linked.banks.growth();

    send(&own, &peer, 300, 1000);
    send(&peer, &own, 200, 400);
    let mut expected = Growth::of("transmit", SLOT, tally(300, 1000));
    expected.slots[0].1.receive = tally(200, 400);
    assert_eq!(total(linked.banks.growth()), expected);

    send(&below, &peer, 10, 100);
    assert_eq!(
        total(linked.banks.growth()),
        Growth::of("transmit", SLOT, tally(10, 100)),
        "groups below are its own"
    );

    send(&neighbour, &peer, 10, 100);
    send(&peer, &neighbour, 10, 100);
    send(&loopback, &loopback, 10, 100);
    // To its own address it is the loopback, too.
    send(&own, &own, 10, 100);
    assert_eq!(linked.banks.growth(), Growth::default());

    let Linked { links, mut banks, .. } = linked;
    drop(links);
    send(&own, &peer, 10, 100);
    send(&peer, &own, 10, 100);
    assert_eq!(
        banks.growth(),
        Growth::default(),
        "a link that is dropped counts nothing"
    );
    nested.remove();
}

/// The growth over all CPUs.
fn total(growth: Growth) -> Growth {
    let mut slots = growth.slots.into_iter();
    let (slot, mut sum) = slots.next().expect("something was counted");
    for (other, counters) in slots {
        assert_eq!(other, slot);
        for (sum, more) in [
            (&mut sum.receive, counters.receive),
            (&mut sum.transmit, counters.transmit),
        ] {
            sum.bytes += more.bytes;
            sum.packets += more.packets;
            sum.wire_bytes += more.wire_bytes;
        }
    }
    Growth {
        slots: vec![(slot, sum)],
        errors: growth.errors,
    }
}

#[test]
fn senders_on_every_cpu_at_once_lose_no_count() {
    const THREADS: u64 = 8;
    const DATAGRAMS: usize = 5_000;
    let scene = Scene::new();
    let group = scene.hierarchy.make(&own_name("crowd"));
    let mut linked = Linked::new(&group);
    let peer = bind(&scene.outside, OUTSIDE);
    let to = peer.local_addr().expect("it is bound");
    let sockets: Vec<_> = group.hold(&scene.hierarchy, || {
        (0..THREADS).map(|_| bind(&scene.inside, INSIDE)).collect()
    });
    // Whoever asks for the neighbour first is told before the crowd comes.
    send(&sockets[0], &peer, 1, 1);
    linked.banks.growth();
    std::thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| {
                for _ in 0..DATAGRAMS {
                    // What does not fit the receiver's buffer was sent all the same.
                    socket.send_to(&[7; 100], to).expect("it is sent");
                }
            });
        }
    });
    let expected = Growth::of("transmit", SLOT, tally(THREADS * DATAGRAMS as u64, 100));
    assert_eq!(total(linked.banks.growth()), expected);
}

#[test]
fn whose_programs_are_at_a_group_can_be_asked() {
    let hierarchy = Hierarchy::unified();
    let group = hierarchy.make(&own_name("asked"));
    let directory = group.open();
    let programs = |direction| cgroup_programs(directory.as_fd(), direction).expect("the group is there");
    for direction in DIRECTIONS {
        assert_eq!(programs(direction), [0; 0]);
    }
    let linked = Linked::new(&group);
    let others = Linked::new(&group);
    for (place, direction) in DIRECTIONS.into_iter().enumerate() {
        assert_eq!(programs(direction), [linked.ids()[place], others.ids()[place]]);
        assert!(linked.links[place].is_attached().expect("the link is ours"));
    }
    assert_ne!(linked.links[0].id(), others.links[0].id());
    let left = linked.ids();
    drop(others);
    for (place, direction) in DIRECTIONS.into_iter().enumerate() {
        assert_eq!(programs(direction), [left[place]]);
    }
}

#[test]
fn a_link_outlives_its_group_and_says_so() {
    let hierarchy = Hierarchy::unified();
    let group = hierarchy.make(&own_name("outlived"));
    let directory = group.open();
    let linked = Linked::new(&group);
    group.remove();
    // The kernel takes programs off a group in its own time.
    for link in &linked.links {
        xtask::host::eventually(Duration::from_secs(10), "end of a link", || {
            Ok((!link.is_attached()?).then_some(()))
        })
        .expect("it ends");
    }
    let again = CgroupLink::create(linked.programs[0].as_fd(), directory.as_fd(), Direction::Transmit);
    assert_eq!(errno(again), libc::ENOENT);
}

#[test]
fn a_link_that_somebody_detaches_says_so() {
    const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
    const BPF_LINK_DETACH: libc::c_long = 34;
    let hierarchy = Hierarchy::unified();
    let group = hierarchy.make(&own_name("detached"));
    let linked = Linked::new(&group);
    let fd = bpf(
        BPF_LINK_GET_FD_BY_ID,
        [linked.links[0].id().cast_signed(), 0, 0, 0],
    );
    bpf(BPF_LINK_DETACH, [fd, 0, 0, 0]);
    // SAFETY: the kernel has just made this descriptor, for us alone.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    let attached = [0, 1].map(|place| linked.links[place].is_attached().expect("the link is ours"));
    assert_eq!(attached, [false, true]);
    let programs = cgroup_programs(group.open().as_fd(), Direction::Transmit).expect("the group is there");
    assert_eq!(programs, [0; 0]);
}

#[test]
fn what_is_no_group_of_v2_is_refused() {
    let hierarchy = Hierarchy::unified();
    let group = hierarchy.make(&own_name("refused"));
    let linked = Linked::new(&group);
    let plain = File::open("/proc").expect("proc is mounted");
    let name = std::ffi::CString::new(own_name("refused")).expect("no zero in it");
    let legacy = Hierarchy::legacy(&name);
    let legacy = legacy.make("group");
    let transmit = linked.programs[0].as_fd();
    for directory in [&plain, &legacy.open()] {
        let refused = CgroupLink::create(transmit, directory.as_fd(), Direction::Transmit);
        assert_eq!(errno(refused), libc::EBADF);
    }
}

#[test]
fn a_program_that_wants_to_be_the_only_one_leaves_no_place_below_it() {
    let hierarchy = Hierarchy::unified();
    let name = own_name("exclusive");
    let parent = hierarchy.make(&name);
    let group = hierarchy.make(&format!("{name}/group"));
    let kernel = kernel();
    let (transmit, _receive) = kernel.template().cgroup(SLOT).expect("the verifier takes them");
    attach_alone(&parent.open(), &transmit);
    for directory in [parent.open(), group.open()] {
        let refused = CgroupLink::create(transmit.as_fd(), directory.as_fd(), Direction::Transmit);
        assert_eq!(errno(refused), libc::EPERM);
    }
    group.remove();
}

/// As systemd's IP accounting did, and `bpftool cgroup attach` does: with flags 0.
fn attach_alone(group: &File, program: &OwnedFd) {
    const BPF_PROG_ATTACH: libc::c_long = 8;
    const BPF_CGROUP_INET_EGRESS: i32 = 1;
    let attributes = [group.as_raw_fd(), program.as_raw_fd(), BPF_CGROUP_INET_EGRESS, 0];
    bpf(BPF_PROG_ATTACH, attributes);
}

/// A command whose attributes are four numbers at most.
fn bpf(command: libc::c_long, attributes: [i32; 4]) -> i32 {
    // SAFETY: no pointers in the attributes, whose size is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result as i32
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result
        .err()
        .and_then(|error| error.raw_os_error())
        .expect("it is refused")
}

#[test]
fn an_instances_memory_is_what_its_programs_take() {
    let kernel = kernel();
    let (transmit, receive) = kernel.template().cgroup(SLOT).expect("the verifier takes them");
    for program in [&transmit, &receive] {
        assert!(from_fdinfo(program, "memlock:") <= 64 * 1024);
    }
}
