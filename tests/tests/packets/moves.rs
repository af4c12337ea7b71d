//! Real interfaces of other network namespaces: what is attached there, and what moves there attached.

use std::net::Ipv4Addr;

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

/// A device over another, which its container is given.
struct Device {
    name: &'static str,
    /// Makes it over `parent0`; false where the kernel cannot.
    make: fn(&Namespace) -> bool,
    /// What a payload becomes as the container sends it, and as it arrives from outside.
    frames: fn(usize) -> [Vec<u8>; 2],
}

const MACVLAN: Device = Device {
    name: "macvlan0",
    make: |host| {
        host.add_macvlan("macvlan0", "parent0", DEVICE);
        true
    },
    frames: |payload| [frame(payload), answer(&frame(payload))],
};

/// On a VLAN, which is on the wire outside and on no container's device.
const MACVLAN_ON_VLAN: Device = Device {
    name: "macvlan5",
    make: |host| {
        let is_made = host.add_vlan("parent0.5", "parent0", 5);
        if is_made {
            host.add_macvlan("macvlan5", "parent0.5", DEVICE);
        }
        is_made
    },
    frames: |payload| {
        let mut tagged = answer(&frame(payload));
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        [frame(payload), tagged]
    },
};

const IPVLAN: Device = Device {
    name: "ipvlan0",
    make: |host| host.add_ipvlan("ipvlan0", "parent0"),
    // Its hardware address is its parent's: it is known by its IP address.
    frames: |payload| {
        let (inside, outside) = (CONTAINER, Ipv4Addr::new(10, 9, 8, 1));
        let between = |from, to| {
            let packet = PacketBuilder::ethernet().ipv4_between(from, to).udp(9);
            packet.payload(payload).build()
        };
        [between(inside, outside), answer(&between(outside, inside))]
    },
};

/// The address of the container's ipvlan.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);

/// What is attached to a device before its container is given it counts there what the kernel counts.
fn goes_on_counting_in_its_container(device: &Device) {
    let kernel = kernel();
    let (host, network, container) = (Namespace::new(), Namespace::new(), Namespace::new());
    host.add_pair("parent0", "network0", &network);
    // The container has interfaces of its own already: the device's index will be another one there.
    for number in 0..4 {
        container.add_pair(&format!("own{number}"), &format!("other{number}"), &container);
    }
    if !(device.make)(&host) {
        // Those that have it are emulated, by the suite `kernels`.
        return;
    }
    let before = host.index(device.name);
    let attachment = host.enter(|| attacher(&kernel, AttachMode::Tcx, Side::OwnDevice).attach(before, false));
    if !tcx_is_supported() {
        let Err(AttachError::Tcx { source, .. }) = attachment else {
            panic!("this kernel has no TCX: {attachment:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
        return;
    }
    let attachment = attachment.expect("it is attached");

    host.hand_over(device.name, &container);
    let after = container.index(device.name);
    assert_ne!(after, before, "its index is another one");
    let place = attachment.place().expect("it is at an interface");
    let look =
        container.enter(|| attacher(&kernel, AttachMode::Tcx, Side::OwnDevice).look(after, place, true));
    assert_eq!(look.expect("the kernel tells"), Some(Standing::First));
    container.add_address(device.name, CONTAINER);
    container.switch_on(device.name);
    // Behind a VLAN's tag the kernel wants two bytes at least.
    for (number, payload) in [2, 46, 500, 1400].into_iter().enumerate() {
        let [sent, arriving] = (device.frames)(payload);
        container.send(device.name, &sent, 10 + number);
        network.send("network0", &arriving, 20 + number);
    }
    // 10 + 11 + 12 + 13 frames sent; 20 + 21 + 22 + 23 received.
    let counted = container.counted(device.name);
    assert_eq!(counted.map(|(_bytes, packets)| packets), [86, 46]);
    assert_eq!(slot(&kernel), counted);

    drop(attachment);
    let [sent, arriving] = (device.frames)(46);
    container.send(device.name, &sent, 1);
    network.send("network0", &arriving, 1);
    assert_eq!(slot(&kernel), counted, "what is taken off counts no more");
}

#[test]
fn a_macvlan_attached_before_its_move_goes_on_counting_in_its_container() {
    goes_on_counting_in_its_container(&MACVLAN);
}

#[test]
fn a_macvlan_on_a_vlan_goes_on_counting_in_its_container() {
    goes_on_counting_in_its_container(&MACVLAN_ON_VLAN);
}

#[test]
fn an_ipvlan_goes_on_counting_in_its_container() {
    goes_on_counting_in_its_container(&IPVLAN);
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
