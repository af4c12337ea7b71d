//! What connections tell of themselves, for a container on the host's network: the programs of `sock_ops`, of the tracepoints
//! beside it and of the walk over the sockets there are.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    time::Duration,
};

use dtm_common::tcp::TcpCounters;
use dtm_daemon::bpf::{Kernel, Limits, SocketWalk};
use xtask::host::eventually;

use crate::{
    groups::{Group, Hierarchy, own_name},
    namespace::Namespace,
};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const OWNER: u32 = 4711;
const CONNECTIONS: u64 = 8;
const TURNS: usize = 50;

/// A namespace that is the daemon's own to the kernel side, and a group in it that is a container's.
struct Watched {
    kernel: Kernel,
    namespace: Namespace,
    hierarchy: Hierarchy,
    group: Group,
}

impl Watched {
    fn new(test: &str, limits: Limits) -> Self {
        let namespace = Namespace::new();
        namespace.switch_on("lo");
        let hierarchy = Hierarchy::unified();
        let group = hierarchy.make(&own_name(test));
        let mut kernel = namespace
            .enter(|| Kernel::load(Path::new(BTF), limits))
            .expect("it loads");
        let id = group.open().metadata().expect("it is there").ino();
        kernel.owners.set_group(id, Some(OWNER)).expect("room for one");
        kernel
            .tcp
            .as_mut()
            .expect("this kernel refuses a tracepoint")
            .enter(OWNER)
            .expect("room for one");
        let root = File::open(hierarchy.root()).expect("it is there");
        kernel
            .listen_to_connections(Some(root.as_fd()))
            .expect("this kernel refuses the program of connections");
        Self {
            kernel,
            namespace,
            hierarchy,
            group,
        }
    }

    /// Does something as a process of the container's.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        // A group is a process', with all of its threads.
        self.group.hold(&self.hierarchy, || self.namespace.enter(work))
    }

    fn counted(&self) -> TcpCounters {
        let all = self.kernel.tcp.as_ref().expect("connections are counted").read();
        all.expect("it can be read")[&OWNER]
    }

    fn walk(&self, walk: &mut SocketWalk) -> Option<u64> {
        self.namespace
            .enter(|| walk.uncounted(OWNER))
            .expect("the walk ends")
    }
}

/// Both ends of connections over the loopback.
fn connect(count: u64) -> Vec<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let to = listener.local_addr().expect("its port");
    let one = |_number| {
        let client = TcpStream::connect(to).expect("connect");
        (client, listener.accept().expect("accept").0)
    };
    (0..count).map(one).collect()
}

#[test]
fn connections_tell_of_their_beginning_their_round_trips_and_their_end() {
    let mut watched = Watched::new(
        "connections",
        Limits {
            slots: 8,
            ..Limits::default()
        },
    );
    let mut connections = watched.inside(|| connect(CONNECTIONS));
    let begun = watched.counted();
    assert_eq!((begun.opened, begun.current), ([CONNECTIONS; 2], 2 * CONNECTIONS));
    let handshakes = begun.connect.map(|times| times.buckets.iter().sum::<u64>());
    assert_eq!(handshakes, [CONNECTIONS; 2]);
    assert_eq!((begun.retransmitted, begun.failed), (0, [0; 4]));

    let (client, server) = &mut connections[0];
    for _ in 0..TURNS {
        let mut byte = [0];
        client.write_all(&[1]).expect("ask");
        server.read_exact(&mut byte).expect("hear");
        server.write_all(&byte).expect("answer");
        client.read_exact(&mut byte).expect("hear the answer");
    }
    let trips: u64 = watched.counted().rtt.buckets.iter().sum();
    assert!(trips as usize >= TURNS, "{trips} round trips of {TURNS} turns");

    // Who walks over them finds those that have told.
    let mut walk = watched
        .kernel
        .socket_walk()
        .expect("it loads")
        .expect("it is counted");
    assert_eq!(watched.walk(&mut walk), Some(0));

    drop(connections);
    eventually(Duration::from_secs(10), "they have ended", || {
        Ok((watched.counted().current == 0).then_some(()))
    })
    .expect("none is left");
    let refused = watched.inside(|| TcpStream::connect("127.0.0.1:9"));
    assert!(refused.is_err());
    assert_eq!(watched.counted().failed, [1, 0, 0, 0]);
}

#[test]
fn round_trips_that_are_switched_off_are_not_told_of() {
    let limits = Limits {
        slots: 8,
        round_trips: false,
        ..Limits::default()
    };
    let watched = Watched::new("silent", limits);
    let connections = watched.inside(|| connect(CONNECTIONS));
    let counted = watched.counted();
    assert_eq!(counted.opened, [CONNECTIONS; 2]);
    assert_eq!(counted.rtt.buckets.iter().sum::<u64>(), 0);
    drop(connections);
}
