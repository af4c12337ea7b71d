//! Docker's own sandboxes: builds and Swarm's ingress are counted, and are nobody's container.

use anyhow::{Context as _, Result, ensure};
use xtask::host::{EngineKind, LinkStatistics, eventually};

use dtm_tests::{
    daemon::Samples,
    scene::{Endpoint, IMAGE, Moved, PATIENCE, Scene, growth},
};

const BUILD: [(&str, &str); 2] = [("kind", "build"), ("network", "bridge")];
const INGRESS: [(&str, &str); 2] = [("kind", "ingress"), ("network", "docker_gwbridge")];

/// What a step of a build sends: datagrams and their payload.
const DATAGRAMS: u64 = 100;
const PAYLOAD: u64 = 500;
/// Ethernet, IPv4 and UDP.
const HEADERS: u64 = 14 + 20 + 8;
/// An ARP request or announcement.
const ARP: u64 = 42;

/// How many builds come one after the other, each gone within a fraction of a second.
const BUILDS: u64 = 5;

/// Bytes received and sent by sandboxes of a kind.
fn infrastructure(samples: &Samples, of: &[(&str, &str)]) -> Result<Moved> {
    Ok((
        samples.get("dtm_infrastructure_receive_bytes_total", of)?,
        samples.get("dtm_infrastructure_transmit_bytes_total", of)?,
    ))
}

/// Bytes received and sent by the containers of a network.
fn containers(samples: &Samples, network: &str) -> Result<Moved> {
    let of = [("network", network)];
    Ok((
        samples.get("dtm_network_containers_receive_bytes_total", &of)?,
        samples.get("dtm_network_containers_transmit_bytes_total", &of)?,
    ))
}

/// What the kernel says that a container on the network `bridge` has moved, what dtm says of it, and what of all there.
fn looks(scene: &Scene, endpoint: &Endpoint) -> Result<[Moved; 3]> {
    eventually(PATIENCE, "the traffic pauses", || {
        let before = scene.kernel(endpoint)?;
        let samples = scene.samples()?;
        let of = |name| samples.get(name, &endpoint.labels());
        let counted = (
            of("dtm_container_network_receive_bytes_total")?,
            of("dtm_container_network_transmit_bytes_total")?,
        );
        let of_all = containers(&samples, "bridge")?;
        Ok((scene.kernel(endpoint)? == before).then_some([before, counted, of_all]))
    })
}

/// How many interfaces are recognised as sandboxes' now.
fn recognised(samples: &Samples) -> u64 {
    samples.sum("dtm_interfaces", &[("state", "infrastructure")])
}

fn nobodys(samples: &Samples) -> u64 {
    samples.sum("dtm_unattributed_receive_bytes_total", &[])
        + samples.sum("dtm_unattributed_transmit_bytes_total", &[])
}

/// The one port of a bridge that is not among `others`, and what the kernel counted there as its other end sees it.
fn kernel(scene: &Scene, bridge: &str, others: &[u32]) -> Result<Moved> {
    let links = scene.host().links()?;
    let bridge = links.iter().find(|link| link.name == bridge);
    let bridge = bridge.context("no such bridge")?.ifindex;
    let mut ports = links
        .iter()
        .filter(|link| link.master == Some(bridge) && !others.contains(&link.ifindex));
    let port = ports.next().context("the bridge has no such port")?;
    ensure!(ports.next().is_none(), "the bridge has several such ports");
    let LinkStatistics {
        rx_bytes, tx_bytes, ..
    } = scene.host().link_statistics(port.ifindex)?;
    Ok((tx_bytes, rx_bytes))
}

/// A kernel's count between two equal ones, and dtm's of the same moment.
fn both(scene: &Scene, of: &[(&str, &str)], kernel: impl Fn() -> Result<Moved>) -> Result<(Moved, Moved)> {
    eventually(PATIENCE, "the traffic pauses", || {
        let before = kernel()?;
        let counted = infrastructure(&scene.samples()?, of)?;
        Ok((kernel()? == before).then_some((before, counted)))
    })
}

fn builds_are_counted_and_are_no_containers(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let scene = Scene::watched(kind, attach_mode)?;
    scene.run("receiver", "bridge", &["traffic", "udp-receive", "5002"])?;
    let receiver = scene.endpoint("receiver", "bridge")?;
    scene.wait_named(&receiver)?;
    // Its birth is others' to test.
    let at_first = looks(&scene, &receiver)?;
    let to = format!("{}:5002", scene.address("receiver", "bridge", false)?);
    let send = format!("FROM {IMAGE}\nRUN traffic udp-send {to} {DATAGRAMS} {PAYLOAD}");
    let before = scene.samples()?;
    assert_eq!(
        infrastructure(&before, &BUILD)?,
        (0, 0),
        "sums are there before the first build"
    );

    // Gone within a fraction of a second, each, and whole.
    for _ in 0..BUILDS {
        scene.engine.buildkit(&send)?;
    }
    let name = "dtm_infrastructure_transmit_packets_total";
    let packets = eventually(PATIENCE, "all builds are counted", || {
        let samples = scene.samples()?;
        let is_over = samples.sum("dtm_interfaces", &[]) == before.sum("dtm_interfaces", &[]);
        let packets = samples.get(name, &BUILD)?;
        Ok((is_over && packets >= BUILDS * DATAGRAMS).then_some(packets))
    })?;
    // Each asks for the receiver's hardware address; a current engine announces the sandbox's own.
    let asked = packets - BUILDS * DATAGRAMS;
    assert!(
        (BUILDS..=BUILDS * 8).contains(&asked),
        "{asked} packets beside the datagrams"
    );
    let after = scene.samples()?;
    let (answers, left) = infrastructure(&after, &BUILD)?;
    let datagrams = BUILDS * DATAGRAMS * (PAYLOAD + HEADERS);
    assert!(
        left >= datagrams + asked * ARP && left <= datagrams + asked * 2 * ARP,
        "{left} bytes in {packets} packets"
    );
    assert!(answers >= BUILDS * ARP, "the receiver has answered each");
    // Nothing of it is a container's: what the network's containers moved is what the receiver did.
    let at_last = looks(&scene, &receiver)?;
    let [truth, counted, of_all] = std::array::from_fn(|at| growth(at_first[at], at_last[at]));
    assert_eq!((counted, of_all), (truth, truth));
    assert_eq!(nobodys(&after), 0);
    let named = |sample: &dtm_tests::daemon::Sample| sample.labels["name"].clone();
    let all: Vec<String> = after
        .all("dtm_container_network_transmit_bytes_total", &[])
        .map(named)
        .collect();
    assert_eq!(all, ["receiver"]);

    // While one lives it is recognised, and its numbers are the kernel's.
    let slow = format!("{send} && sleep 4");
    std::thread::scope(|scope| {
        let build = scope.spawn(|| scene.engine.buildkit(&slow));
        eventually(PATIENCE, "the build is recognised and has sent", || {
            let samples = scene.samples()?;
            let sent_now = infrastructure(&samples, &BUILD)?.1 - left;
            Ok((recognised(&samples) == 1 && sent_now >= DATAGRAMS * PAYLOAD).then_some(()))
        })?;
        let of_build = || kernel(&scene, "docker0", &[receiver.host_end]);
        let (kernel_moved, counted) = both(&scene, &BUILD, of_build)?;
        let grown = (counted.0 - answers, counted.1 - left);
        assert_eq!(grown, kernel_moved, "everything since the sandbox was born");
        build
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        eventually(PATIENCE, "the build is gone", || {
            Ok((recognised(&scene.samples()?) == 0).then_some(()))
        })?;
        let last = infrastructure(&scene.samples()?, &BUILD)?;
        assert!(
            last.0 >= counted.0 && last.1 >= counted.1,
            "{last:?} after {counted:?}"
        );
        Ok(())
    })
}

#[test]
fn builds_are_counted_and_are_no_containers_on_the_current_engine_with_tcx() -> Result<()> {
    builds_are_counted_and_are_no_containers(EngineKind::Current, "tcx")
}

#[test]
fn builds_are_counted_and_are_no_containers_on_the_old_engine_with_clsact() -> Result<()> {
    builds_are_counted_and_are_no_containers(EngineKind::Old, "clsact")
}

/// The ingress sandbox has one on the bridge to the host, and one on the overlay network `ingress`.
const INGRESS_INTERFACES: u64 = 2;

/// Swarm's routing mesh itself needs IPVS; its sandbox does not, and answers to pings.
fn ping_ingress(scene: &Scene) -> Result<()> {
    let format = "{{(index .Containers \"ingress-sbox\").IPv4Address}}";
    let inspect = ["network", "inspect", "--format", format, "docker_gwbridge"];
    let address = scene.engine.docker(inspect)?;
    let address = address.split('/').next().unwrap_or_default();
    let ping = ["ping", "-c", "2", "-s", "1000", address];
    scene.host().run("busybox", ping).map(drop)
}

fn swarms_ingress_is_counted_and_is_no_container(kind: EngineKind, attach_mode: &str) -> Result<()> {
    let mut scene = Scene::watched(kind, attach_mode)?;
    let init = [
        "swarm",
        "init",
        "--advertise-addr",
        "127.0.0.1",
        "--listen-addr",
        "127.0.0.1",
    ];
    scene.engine.docker(init)?;
    let wait_recognised = |scene: &Scene, count| {
        eventually(PATIENCE, &format!("{count} sandboxes are recognised"), || {
            let samples = scene.samples()?;
            let is_home = samples.find("dtm_infrastructure_receive_bytes_total", &INGRESS)?;
            Ok((recognised(&samples) == count && is_home.is_some()).then_some(()))
        })
    };
    wait_recognised(&scene, INGRESS_INTERFACES)?;
    ping_ingress(&scene)?;
    let of_ingress = || kernel(&scene, "docker_gwbridge", &[]);
    let (kernel_moved, counted) = both(&scene, &INGRESS, of_ingress)?;
    assert_eq!(counted, kernel_moved, "everything since the sandbox was born");
    assert!(counted.0 >= 2000 && counted.1 >= 2000, "{counted:?}");
    let samples = scene.samples()?;
    assert_eq!(containers(&samples, "docker_gwbridge")?, (0, 0));
    assert_eq!(nobodys(&samples), 0);

    // It goes and comes again; the sums stay and go on.
    scene.engine.docker(["swarm", "leave", "--force"])?;
    wait_recognised(&scene, 0)?;
    let left = infrastructure(&scene.samples()?, &INGRESS)?;
    assert!(
        left.0 >= counted.0 && left.1 >= counted.1,
        "{left:?} after {counted:?}"
    );
    scene.engine.docker(init)?;
    wait_recognised(&scene, INGRESS_INTERFACES)?;
    ping_ingress(&scene)?;
    let (kernel_moved, counted) = both(&scene, &INGRESS, || kernel(&scene, "docker_gwbridge", &[]))?;
    assert_eq!((counted.0 - left.0, counted.1 - left.1), kernel_moved);
    assert_eq!(nobodys(&scene.samples()?), 0);

    // One that was there before dtm is recognised as well.
    scene.stop_dtm()?;
    scene.start_dtm(&["--attach-mode", attach_mode])?;
    wait_recognised(&scene, INGRESS_INTERFACES)?;
    scene.stop_dtm()
}

#[test]
fn swarms_ingress_is_counted_and_is_no_container_on_the_current_engine_with_clsact() -> Result<()> {
    swarms_ingress_is_counted_and_is_no_container(EngineKind::Current, "clsact")
}

#[test]
fn swarms_ingress_is_counted_and_is_no_container_on_the_old_engine_with_tcx() -> Result<()> {
    swarms_ingress_is_counted_and_is_no_container(EngineKind::Old, "tcx")
}
