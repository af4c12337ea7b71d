//! What goes on counting without a process, and is gone on with by the next.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dtm_common::{index::InterfaceKey, traffic::Direction};
use dtm_daemon::{
    bpf::{
        Attacher, Attachment, Bpffs, Kept, Kernel, Limits, LinkName, Mode, Pins, Place, Standing,
        tcx_is_supported,
    },
    config::AttachMode,
    tracker::Traffic,
};
use dtm_tests::packets::PacketBuilder;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::namespace::{Namespace, bytes_and_packets};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const SLOT: u32 = 3;
const GENERATION: u64 = 17;

/// A BPF file system of the test's own. Dropping it unmounts it.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        Bpffs::mount(directory.path(), Path::new("/proc")).expect("it is mounted");
        assert_eq!(
            Bpffs::look(directory.path(), Path::new("/proc")).expect("it is there"),
            Bpffs::Mounted
        );
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.path(), UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.path().display());
        }
    }
}

fn take_over(bpffs: &Path, slots: u32) -> (Kernel, Kept) {
    Kernel::take_over(
        Path::new(BTF),
        Limits {
            slots,
            ..Limits::default()
        },
        bpffs,
    )
    .expect("the kernel side loads")
}

fn attacher(kernel: &Kernel, mode: AttachMode) -> Attacher {
    let (transmit, receive) = kernel.classifiers().expect("descriptors");
    Attacher::new(transmit, receive, mode).expect("a netlink socket")
}

/// What the container of the slot has sent.
fn sent(kernel: &Kernel) -> (u64, u64) {
    bytes_and_packets(kernel.counters.read(SLOT).transmit)
}

/// The links by the names they were left under.
fn links(pins: &Pins) -> [(LinkName, PathBuf); 2] {
    let mut links = pins.links();
    links.sort_by_key(|(name, _path)| name.direction == Direction::Receive);
    links.try_into().expect("one for each direction")
}

/// A container's interface, and where what is attached to it is pinned.
struct Scene {
    bpffs: Mounted,
    host: Namespace,
    container: Namespace,
    frame: Vec<u8>,
    key: InterfaceKey,
    mode: AttachMode,
}

impl Scene {
    fn new(mode: AttachMode) -> Self {
        let (host, container) = (Namespace::new(), Namespace::new());
        host.add_pair("host0", "eth0", &container);
        let ifindex = host.index("host0");
        Self {
            bpffs: Mounted::new(),
            host,
            container,
            frame: PacketBuilder::ethernet().payload(500).build(),
            key: InterfaceKey { netns: 0, ifindex },
            mode,
        }
    }

    fn send(&self, times: usize) {
        self.container.send("eth0", &self.frame, times);
    }

    /// What so many frames are: bytes and packets.
    fn frames(&self, number: u64) -> (u64, u64) {
        (number * self.frame.len() as u64, number)
    }

    /// One that attaches and is killed: nothing of it is put in order. Gives where it was.
    fn killed(&self) -> Place {
        let (mut kernel, mut kept) = take_over(self.bpffs.path(), 16);
        assert!(kept.found.is_none());
        kernel.enter(self.key, SLOT).expect("room for one");
        let mut attachment = attacher(&kernel, self.mode)
            .attach(self.key.ifindex, false)
            .expect("it is attached");
        attachment
            .pin(&kept.pins, SLOT, GENERATION)
            .expect("it is pinned");
        let journal = &mut kept.journal;
        journal.put("what", b"was known").expect("room for a text");
        journal.see(5);
        journal.commit().expect("it is found");
        journal
            .put("what", b"was not committed")
            .expect("room for a text");
        self.send(10);
        assert_eq!(sent(&kernel), self.frames(10));
        let place = attachment.place();
        attachment.keep();
        kernel.keep();
        place.expect("it is at an interface")
    }

    /// One that goes on with the same maps and programs.
    fn gone_on_with(&self, place: Place) {
        let (mut kernel, kept) = take_over(self.bpffs.path(), 16);
        let found = kept.found.expect("one was there");
        assert_eq!(
            (found.entries["what"].as_slice(), found.seen),
            (&b"was known"[..], 5)
        );
        assert!(found.former.is_none());
        assert_eq!(sent(&kernel), self.frames(30));
        let mut attacher = attacher(&kernel, self.mode);
        let standing = attacher.look(self.key.ifindex, place, true);
        assert_eq!(
            standing.expect("the kernel tells"),
            Some(Standing::First),
            "it is where it was"
        );
        kernel.enter_again(self.key, SLOT).expect("it is there");
        if self.mode == AttachMode::Tcx {
            let [(transmit, transmit_path), (receive, receive_path)] = links(&kept.pins);
            assert_eq!((transmit.slot, transmit.generation), (SLOT, GENERATION));
            assert_ne!(transmit.id, receive.id);
            let links = Attachment::open(Mode::Tcx, transmit_path, receive_path);
            let links = links.expect("both are there");
            assert_eq!(links.place(), Some(place));
            links.keep();
        }
        kernel.keep();
    }

    /// One whose maps are of another size reads what was counted, and has what is attached count into its own.
    fn replaced(&self, place: Place) {
        let (mut kernel, kept) = take_over(self.bpffs.path(), 32);
        let former = kept.found.and_then(|found| found.former);
        let former = former.expect("its maps are others");
        let counted = || bytes_and_packets(former.read(SLOT).transmit);
        assert_eq!(counted(), self.frames(60));
        assert_eq!(former.read(16), Traffic::default(), "it had no such slot");
        kernel.enter(self.key, SLOT).expect("room for one");
        let mut attacher = attacher(&kernel, self.mode);
        let attachment = match place {
            Place::Clsact { transmit, receive } => Attachment::Clsact { transmit, receive },
            Place::Tcx { .. } => {
                let [(_, transmit), (_, receive)] = links(&former.pins);
                Attachment::open(Mode::Tcx, transmit, receive).expect("both are there")
            }
        };
        let renewed = attacher.renew(self.key.ifindex, attachment);
        let mut attachment = renewed.expect("they are replaced");
        attachment
            .pin(&kept.pins, SLOT, GENERATION)
            .expect("it is pinned anew");
        self.send(40);
        assert_eq!(counted(), self.frames(60), "nothing counts there any more");
        assert_eq!(sent(&kernel), self.frames(40));
        former.pins.remove().expect("it is removed");
        self.send(1);
        assert_eq!(sent(&kernel), self.frames(41), "what was taken over stays");
        attacher.detach(attachment).expect("it is taken off");
        kernel.unpin();
        kept.pins.remove().expect("it is removed");
    }
}

fn goes_on(mode: AttachMode) {
    let scene = Scene::new(mode);
    let place = scene.host.enter(|| scene.killed());
    scene.send(20);
    scene.host.enter(|| scene.gone_on_with(place));
    scene.send(30);
    scene.host.enter(|| scene.replaced(place));
    let left = scene.bpffs.path().join("dtm");
    assert!(!left.exists(), "nothing is left");
    let before = scene.container.counted("eth0");
    scene.send(1);
    let after = scene.container.counted("eth0");
    assert_eq!(after[1].1, before[1].1 + 1, "the interface goes on");
}

#[test]
fn filters_go_on_without_a_process_and_with_the_next() {
    goes_on(AttachMode::Clsact);
}

#[test]
fn links_go_on_without_a_process_and_with_the_next() {
    if tcx_is_supported() {
        goes_on(AttachMode::Tcx);
    }
}

#[test]
fn where_nothing_can_be_pinned_it_says_so_and_leaves_nothing() {
    let directory = TempDir::new().expect("a directory");
    let host = Namespace::new();
    host.enter(|| {
        let refused = Kernel::take_over(
            Path::new(BTF),
            Limits {
                slots: 16,
                ..Limits::default()
            },
            directory.path(),
        );
        assert!(refused.is_err(), "this is no BPF file system");
    });
    let left = fs::read_dir(directory.path()).expect("it can be listed");
    assert_eq!(left.count(), 0);
}
