//! A container on the host's network: only a socket's control group says whose it is.

use anyhow::{Result, ensure};
use dtm_tests::{
    far::{Far, UDP, Version, udp_count, wait_listening},
    scene::Scene,
};
use xtask::host::EngineKind;

use crate::stage::{loses, lost, make_short_queue, queue_drops};

const NEGLECTED: u16 = 5003;

#[test]
fn drops_of_a_container_on_the_hosts_network_are_its_sockets() -> Result<()> {
    let mut scene = Scene::watched(EngineKind::newest()?, "auto")?;
    scene.make_silent_network()?;
    let far = Far::new(scene.host(), 1)?;
    let host = scene.host().network()?;
    let neglect = format!("traffic udp-neglect {NEGLECTED} & exec sleep 3600");
    scene.run("hosted", "host", &["sh", "-c", &neglect])?;
    scene.wait_named_on("hosted", "host")?;
    wait_listening(&host, NEGLECTED)?;
    let near = far.near(Version::V4);

    loses(&scene, "a socket that nobody reads", || {
        let before = udp_count(&host, "RcvbufErrors")?;
        far.send(&format!("{near}:{NEGLECTED}"), 500, 400)?;
        let overflows = udp_count(&host, "RcvbufErrors")? - before;
        ensure!(overflows > 100, "only {overflows} of 500 found no room");
        Ok(lost("hosted", "receive", "socket_rcvbuff", overflows))
    })?;
    loses(&scene, "a full queue of the host's", || {
        make_short_queue(&host, &far.interface())?;
        let to = far.port(Version::V4, UDP);
        scene.exec("hosted", &["traffic", "udp-send", &to, "100", "1000"])?;
        let dropped = queue_drops(&host, &far.interface())?;
        ensure!(dropped > 50, "only {dropped} of 100 found no room");
        Ok(lost("hosted", "transmit", "qdisc_drop", dropped))
    })?;
    // What the host itself sends is nobody's, at the same queue.
    loses(&scene, "the host's own", || {
        let to = far.port(Version::V4, UDP);
        host.run(dtm_tests::far::traffic()?, ["udp-send", &to, "100", "1000"])?;
        Ok(crate::stage::Lost::new())
    })?;
    scene.stop_dtm()
}
