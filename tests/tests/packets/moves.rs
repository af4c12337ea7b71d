//! Real interfaces of other network namespaces: what is attached there, and what moves there attached.

use dtm_daemon::{
    bpf::{AttachError, Attacher, Counts, Kernel, Mode, Place, Side, Standing, tcx_is_supported},
    config::AttachMode,
};
use dtm_tests::packets::PacketBuilder;

use crate::{
    instances::kernel,
    namespace::{Namespace, RECEIVER, answer, bytes_and_packets},
};

const SLOT: u32 = 5;

/// The address of a macvlan, as Docker makes them up.
const DEVICE: [u8; 6] = [2, 0x42, 0, 0, 0, 9];

/// A frame of an experimental protocol from `DEVICE` to the other end of its parent's pair.
fn frame(payload: usize) -> Vec<u8> {
    let mut frame = PacketBuilder::ethernet().payload(payload).build();
    frame[..6].copy_from_slice(&RECEIVER);
    frame[6..12].copy_from_slice(&DEVICE);
    frame
}

/// What a container's device counts: received, sent.
fn slot(kernel: &Kernel) -> [(u64, u64); 2] {
    let traffic = kernel.counters.read(SLOT);
    [traffic.receive, traffic.transmit].map(bytes_and_packets)
}

/// For interfaces of the calling thread's namespace, whose traffic all goes to the slot.
fn attacher(kernel: &Kernel, mode: AttachMode, side: Side) -> Attacher {
    let (transmit, receive) = kernel
        .template()
        .classifiers(Counts::Slot(SLOT))
        .expect("the verifier takes it again");
    let attacher = Attacher::new(transmit, receive, mode).expect("a netlink socket");
    attacher.at(side)
}

#[test]
fn a_macvlan_attached_before_its_move_goes_on_counting_in_its_container() {
    let kernel = kernel();
    let (host, network, container) = (Namespace::new(), Namespace::new(), Namespace::new());
    host.add_pair("parent0", "network0", &network);
    // The container has interfaces of its own already: the device's index will be another one there.
    for number in 0..4 {
        container.add_pair(&format!("own{number}"), &format!("other{number}"), &container);
    }
    host.add_macvlan("macvlan0", "parent0", DEVICE);
    let before = host.index("macvlan0");
    let attachment = host.enter(|| attacher(&kernel, AttachMode::Tcx, Side::OwnDevice).attach(before, false));
    if !tcx_is_supported() {
        let Err(AttachError::Tcx { source, .. }) = attachment else {
            panic!("this kernel has no TCX: {attachment:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
        return;
    }
    let attachment = attachment.expect("it is attached");

    host.hand_over("macvlan0", &container);
    let after = container.index("macvlan0");
    assert_ne!(after, before, "its index is another one");
    let place = attachment.place().expect("it is at an interface");
    let look =
        container.enter(|| attacher(&kernel, AttachMode::Tcx, Side::OwnDevice).look(after, place, true));
    assert_eq!(look.expect("the kernel tells"), Some(Standing::First));
    container.switch_on("macvlan0");
    for (number, payload) in [0, 46, 500, 1486].into_iter().enumerate() {
        container.send("macvlan0", &frame(payload), 10 + number);
        network.send("network0", &answer(&frame(payload)), 20 + number);
    }
    // 10 + 11 + 12 + 13 frames sent; 20 + 21 + 22 + 23 received.
    let counted = container.counted("macvlan0");
    assert_eq!(counted.map(|(_bytes, packets)| packets), [86, 46]);
    assert_eq!(slot(&kernel), counted);

    drop(attachment);
    container.send("macvlan0", &frame(46), 1);
    network.send("network0", &answer(&frame(46)), 1);
    assert_eq!(slot(&kernel), counted, "what is taken off counts no more");
}

#[test]
fn the_host_end_and_the_containers_device_are_each_others_mirror() {
    let kernel = kernel();
    let (host, container) = (Namespace::new(), Namespace::new());
    host.add_pair("host0", "eth0", &container);
    let modes: &[AttachMode] = if tcx_is_supported() {
        &[AttachMode::Clsact, AttachMode::Tcx]
    } else {
        &[AttachMode::Clsact]
    };
    for &mode in modes {
        for (side, namespace, name) in [
            (Side::HostEnd, &host, "host0"),
            (Side::OwnDevice, &container, "eth0"),
        ] {
            let ifindex = namespace.index(name);
            kernel.counters.clear(SLOT);
            namespace.enter(|| {
                let mut attacher = attacher(&kernel, mode, side);
                let attachment = attacher.attach(ifindex, false).expect("it is attached");
                let wanted = match mode {
                    AttachMode::Clsact => Mode::Clsact,
                    _ => Mode::Tcx,
                };
                assert_eq!(attachment.mode(), wanted);
                let place: Place = attachment.place().expect("it is at an interface");
                let look = attacher.look(ifindex, place, true).expect("the kernel tells");
                assert_eq!(look, Some(Standing::First));
                let before = container.counted("eth0");
                container.send(
                    "eth0",
                    &answer(&PacketBuilder::ethernet().payload(100).build()),
                    3,
                );
                host.send("host0", &PacketBuilder::ethernet().payload(200).build(), 5);
                let after = container.counted("eth0");
                let grown = [0, 1].map(|way| (after[way].0 - before[way].0, after[way].1 - before[way].1));
                assert_eq!(grown, [(5 * 214, 5), (3 * 114, 3)]);
                assert_eq!(slot(&kernel), grown, "{mode:?} at {side:?}");
                attacher.detach(attachment).expect("it is taken off");
                let look = attacher.look(ifindex, place, true).expect("the kernel tells");
                assert_eq!(look, Some(Standing::Missing));
                host.send("host0", &PacketBuilder::ethernet().payload(200).build(), 1);
                assert_eq!(slot(&kernel), grown, "what is taken off counts no more");
            });
        }
    }
}

#[test]
fn a_filter_does_not_move_along() {
    let kernel = kernel();
    let (host, container) = (Namespace::new(), Namespace::new());
    host.add_pair("host0", "eth0", &host);
    let ifindex = host.index("eth0");
    let place = host.enter(|| {
        let attachment = attacher(&kernel, AttachMode::Clsact, Side::OwnDevice).attach(ifindex, false);
        attachment
            .expect("it is attached")
            .place()
            .expect("it is at an interface")
    });
    host.hand_over("eth0", &container);
    container.switch_on("eth0");
    let ifindex = container.index("eth0");
    let look =
        container.enter(|| attacher(&kernel, AttachMode::Clsact, Side::OwnDevice).look(ifindex, place, true));
    assert_eq!(look.expect("the kernel tells"), Some(Standing::Missing));
    container.send(
        "eth0",
        &answer(&PacketBuilder::ethernet().payload(100).build()),
        3,
    );
    assert_eq!(slot(&kernel), [(0, 0), (0, 0)]);
}
