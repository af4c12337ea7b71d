//! A running container leaves networks and joins them.

use anyhow::Result;
use dtm_tests::{
    known::{
        NETWORK_RECEIVED, NETWORK_SENT, RECEIVED_BYTES, SENT_BYTES, bursts, counted, goes_on, has_sent,
        id_of, plain_stage, port_of, send,
    },
    scene::{BACK, FRONT, PATIENCE, SILENT, Scene},
};
use xtask::host::{EngineKind, Running, eventually};

/// Does `docker network ACTION NETWORK CONTAINER`.
fn network(scene: &Scene, action: &str, network: &str, container: &str) -> Result<()> {
    scene
        .engine
        .docker(["network", action, network, container])
        .map(drop)
}

/// Waits until dtm has as many interfaces with a name.
fn wait_interfaces(scene: &Scene, count: u64) -> Result<()> {
    eventually(PATIENCE, &format!("{count} interfaces have names"), || {
        let named = scene.samples()?.sum("dtm_interfaces", &[("state", "named")]);
        Ok((named == count).then_some(()))
    })
}

fn a_network_left_and_joined_again(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    let to = port_of(&scene, "receiver", SILENT)?;
    for name in ["mover", "sender"] {
        scene.run(name, SILENT, &["sleep", "3600"])?;
        scene.wait_named(&scene.endpoint(name, SILENT)?)?;
    }
    // Somebody else talks on the same network all the while.
    let script = bursts(&[&to], 1_000);
    let mut talk = scene
        .engine
        .docker_command(["exec", "sender", "sh", "-c", &script]);
    let mut talk = Running::spawn(&mut talk)?;
    let id = id_of(&scene, "mover")?;
    let of_mover = [("container_id", id.as_str())];

    // It leaves its only network: it lives on, and so does its series.
    send(&scene, "mover", &to, 100)?;
    let first = scene.endpoint("mover", SILENT)?;
    let before = goes_on(&scene, &id, &first, (0, 0))?;
    network(&scene, "disconnect", SILENT, "mover")?;
    wait_interfaces(&scene, 2)?;
    assert_eq!(
        counted(&scene, &id, &first)?,
        before,
        "nothing is lost at the end"
    );
    assert_eq!(scene.samples()?.all("dtm_container_info", &of_mover).count(), 1);
    assert_eq!(scene.engine.container_links("mover")?, []);

    // It comes back: the same network and interface is the same series.
    network(&scene, "connect", SILENT, "mover")?;
    let second = scene.endpoint("mover", SILENT)?;
    send(&scene, "mover", &to, 100)?;
    has_sent(&scene, &id, 200)?;
    let (earlier, series) = if second.interface == first.interface {
        (before, 1)
    } else {
        // Debian's engine gives no name twice while a container runs.
        assert_eq!((kind, &*second.interface), (EngineKind::Old, "eth1"));
        assert_eq!(
            counted(&scene, &id, &first)?,
            before,
            "another interface, another series"
        );
        ((0, 0), 2)
    };
    let before = goes_on(&scene, &id, &second, earlier)?;
    assert_eq!(scene.samples()?.all(RECEIVED_BYTES, &of_mover).count(), series);

    // Another network is another series, and the first one stays when it is left.
    network(&scene, "connect", FRONT, "mover")?;
    let front = scene.endpoint("mover", FRONT)?;
    goes_on(&scene, &id, &front, (0, 0))?;
    network(&scene, "disconnect", SILENT, "mover")?;
    wait_interfaces(&scene, 3)?;
    assert_eq!(counted(&scene, &id, &second)?, before);
    assert_eq!(
        scene.samples()?.all(RECEIVED_BYTES, &of_mover).count(),
        series + 1
    );

    // A restart gives the names anew: eth0 is now on another network than before.
    let before = goes_on(&scene, &id, &front, (0, 0))?;
    scene.engine.docker(["restart", "--time", "0", "mover"])?;
    let again = scene.endpoint("mover", FRONT)?;
    assert_eq!(again.interface, "eth0");
    let earlier = if again.interface == front.interface {
        before
    } else {
        (0, 0)
    };
    // Whatever the network itself says between the last look and the end comes on top.
    scene.wait_named(&again)?;
    let now = counted(&scene, &id, &again)?;
    assert!(now >= earlier, "{now:?} after {earlier:?}");
    assert!(talk.try_wait()?.is_none(), "all of this was beside traffic");
    assert!(talk.wait(PATIENCE)?.success());
    has_sent(&scene, &id_of(&scene, "sender")?, 10_000)?;
    sums_are_those_of_their_containers(&scene)?;
    watch.finish()
}

/// Nobody has gone: what a network moved is what its containers moved.
fn sums_are_those_of_their_containers(scene: &Scene) -> Result<()> {
    let samples = scene.samples()?;
    for network in [SILENT, FRONT, BACK] {
        let of = [("network", network)];
        for (sum, each) in [(NETWORK_RECEIVED, RECEIVED_BYTES), (NETWORK_SENT, SENT_BYTES)] {
            assert_eq!(
                samples.sum(sum, &of),
                samples.sum(each, &of),
                "{sum} of {network}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_network_left_and_joined_again_on_the_old_engine_with_clsact() -> Result<()> {
    a_network_left_and_joined_again(EngineKind::Old, "clsact")
}

#[test]
fn a_network_left_and_joined_again_on_the_current_engine_with_tcx() -> Result<()> {
    a_network_left_and_joined_again(EngineKind::Current, "tcx")
}

/// Two containers swap their networks, and a network is made again under its name: who moved what on which network is
/// kept apart, and a network's sum is its name's.
fn networks_are_kept_apart(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    let make = |name: &str| {
        let unannounced = ["--opt", "com.docker.network.advertise_addr_nmsgs=0"];
        scene
            .engine
            .docker(["network", "create"].iter().chain(&unannounced).chain(&[name]))
    };
    make("quiet")?;
    scene.run("left", SILENT, &["sleep", "3600"])?;
    scene.run("right", "quiet", &["sleep", "3600"])?;
    let (left, right) = (id_of(&scene, "left")?, id_of(&scene, "right")?);
    scene.run("partner", "quiet", &["traffic", "udp-receive", "5002"])?;
    let to = [
        port_of(&scene, "receiver", SILENT)?,
        port_of(&scene, "partner", "quiet")?,
    ];
    send(&scene, "left", &to[0], 100)?;
    send(&scene, "right", &to[1], 200)?;
    let (left_before, right_before) = (has_sent(&scene, &left, 100)?.1, has_sent(&scene, &right, 200)?.1);
    for (container, from, into) in [("left", SILENT, "quiet"), ("right", "quiet", SILENT)] {
        network(&scene, "disconnect", from, container)?;
        network(&scene, "connect", into, container)?;
    }
    send(&scene, "left", &to[1], 300)?;
    send(&scene, "right", &to[0], 400)?;
    let (left_after, right_after) = (has_sent(&scene, &left, 400)?.1, has_sent(&scene, &right, 600)?.1);
    let samples = scene.samples()?;
    let on = |id, network| samples.sum(SENT_BYTES, &[("container_id", id), ("network", network)]);
    assert_eq!(
        (on(&left, SILENT), on(&right, "quiet")),
        (left_before, right_before)
    );
    assert_eq!(
        (on(&left, "quiet"), on(&right, SILENT)),
        (left_after - left_before, right_after - right_before)
    );
    sums_are_those_of_their_containers(&scene)?;

    // Everybody leaves; the network goes, and comes again under its name.
    let sum = scene.samples()?.get(NETWORK_SENT, &[("network", "quiet")])?;
    for container in ["left", "partner"] {
        network(&scene, "disconnect", "quiet", container)?;
    }
    scene.engine.docker(["network", "rm", "quiet"])?;
    make("quiet")?;
    for container in ["left", "partner"] {
        network(&scene, "connect", "quiet", container)?;
    }
    send(&scene, "left", &port_of(&scene, "partner", "quiet")?, 500)?;
    let grown = has_sent(&scene, &left, 900)?.1 - left_after;
    let of_quiet = [("network", "quiet")];
    // The partner has answered a question or two.
    let whole = |now: u64| (sum + grown..=sum + grown + 4 * 42).contains(&now);
    let now = scene.samples()?.get(NETWORK_SENT, &of_quiet)?;
    assert!(whole(now), "{now} after {sum} and {grown}");
    // Once the first one has lingered, the second has all of it.
    scene.engine.docker(["network", "create", "marker"])?;
    scene.engine.docker(["network", "rm", "marker"])?;
    eventually(PATIENCE, "a network that was removed later has gone", || {
        let samples = scene.samples()?;
        Ok(samples
            .all(NETWORK_SENT, &[("network", "marker")])
            .next()
            .is_none()
            .then_some(()))
    })?;
    let now = scene.samples()?.get(NETWORK_SENT, &of_quiet)?;
    assert!(whole(now), "{now} after {sum} and {grown}");
    watch.finish()
}

#[test]
fn networks_are_kept_apart_on_the_old_engine_with_tcx() -> Result<()> {
    networks_are_kept_apart(EngineKind::Old, "tcx")
}

#[test]
fn networks_are_kept_apart_on_the_current_engine_with_clsact() -> Result<()> {
    networks_are_kept_apart(EngineKind::Current, "clsact")
}

/// What the host and a network have said to each other, both ways; none where the network has no series.
fn at_bridge(scene: &Scene, network: &str) -> Result<Option<u64>> {
    let samples = scene.samples()?;
    let of = |name| samples.find(name, &[("network", network)]);
    let received = of("dtm_network_bridge_receive_bytes_total")?;
    Ok(received
        .zip(of("dtm_network_bridge_transmit_bytes_total")?)
        .map(|(one, other)| one + other))
}

/// A bridge that a person made outlives the network on it, and may come to carry another.
fn a_bridge_counts_for_the_network_on_it(kind: EngineKind, mode: &str) -> Result<()> {
    let (scene, watch) = plain_stage(kind, mode)?;
    scene
        .host()
        .run("ip", ["link", "add", "own0", "type", "bridge"])?;
    let make = |name: &str| -> Result<()> {
        let bridge = [
            "--opt",
            "com.docker.network.bridge.name=own0",
            "--subnet",
            "198.18.7.0/24",
        ];
        let create = ["network", "create"];
        scene
            .engine
            .docker(create.iter().chain(&bridge).chain(&[name]))
            .map(drop)
    };
    // Two pings there and back, and a question and an answer each way.
    let pings = |name: &str| -> Result<()> {
        scene.run(name, name, &["sleep", "3600"])?;
        scene.wait_named(&scene.endpoint(name, name)?)?;
        scene.exec(name, &["ping", "-c", "2", "-i", "0.2", "198.18.7.1"])?;
        scene.engine.docker(["rm", "--force", name])?;
        scene.engine.docker(["network", "rm", name]).map(drop)
    };
    let is_two_pings = |bytes: u64| (4 * 98..=4 * 98 + 8 * 42).contains(&bytes);
    make("first")?;
    pings("first")?;
    let of_first = at_bridge(&scene, "first")?.unwrap_or_default();
    assert!(is_two_pings(of_first), "{of_first} bytes of two pings");
    make("second")?;
    pings("second")?;
    let of_second = at_bridge(&scene, "second")?.unwrap_or_default();
    assert!(is_two_pings(of_second), "{of_second} bytes of two pings");
    // Both have lingered: the bridge is somebody else's now, until it is Docker's again.
    eventually(PATIENCE, "both networks have gone", || {
        let gone = at_bridge(&scene, "first")?.is_none() && at_bridge(&scene, "second")?.is_none();
        Ok(gone.then_some(()))
    })?;
    let bridges =
        |scene: &Scene| -> Result<u64> { Ok(scene.samples()?.sum("dtm_interfaces", &[("state", "bridge")])) };
    let left = bridges(&scene)?;
    make("third")?;
    eventually(PATIENCE, "the bridge is counted at again", || {
        Ok((bridges(&scene)? == left + 1).then_some(()))
    })?;
    pings("third")?;
    let of_third = at_bridge(&scene, "third")?.unwrap_or_default();
    assert!(is_two_pings(of_third), "{of_third} bytes of two pings");
    watch.finish()
}

#[test]
fn a_bridge_counts_for_the_network_on_it_on_the_old_engine_with_clsact() -> Result<()> {
    a_bridge_counts_for_the_network_on_it(EngineKind::Old, "clsact")
}

#[test]
fn a_bridge_counts_for_the_network_on_it_on_the_current_engine_with_tcx() -> Result<()> {
    a_bridge_counts_for_the_network_on_it(EngineKind::Current, "tcx")
}
