//! Where traffic went is known on: by scope, and to whom, through an upgrade to other maps and back.

use anyhow::Result;
use dtm_tests::{
    known::{DATAGRAM, LINGER, RECEIVED_BYTES, id_of, port_of, send},
    paths::{Amount, Paths, at_rest, sums_agree},
    scene::{PATIENCE, SILENT, Scene},
};
use xtask::host::{EngineKind, EngineOptions, eventually};

const DATAGRAMS: u64 = 25;

#[test]
fn where_traffic_went_is_known_on() -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(EngineKind::Old))?;
    scene.make_silent_network()?;
    let arguments = ["--linger", LINGER];
    scene.start_dtm(&arguments)?;
    let start = |scene: &Scene, name: &str| {
        scene.run(name, SILENT, &["traffic", "udp-receive", "5002"])?;
        // One that had the name before may linger.
        let id = id_of(scene, name)?;
        eventually(PATIENCE, &format!("{name} is named"), || {
            let samples = scene.samples()?;
            let of = [("container_id", id.as_str())];
            Ok(samples.all(RECEIVED_BYTES, &of).next().map(drop))
        })
    };
    start(&scene, "client")?;
    start(&scene, "server")?;
    let mut times = 0;
    let programs = [
        "dtm",
        "dtm-other-program",
        "dtm-other-layout",
        "dtm-other-layout",
        "dtm",
        "dtm",
    ];
    for program in programs {
        let to = port_of(&scene, "server", SILENT)?;
        send(&scene, "client", &to, DATAGRAMS)?;
        scene.kill_dtm()?;
        send(&scene, "client", &to, DATAGRAMS)?;
        scene.start_other_dtm(program, &arguments)?;
        // Beside what goes on, something ends and comes back under its name.
        scene.engine.docker(["rm", "--force", "server"])?;
        start(&scene, "server")?;
        let to = port_of(&scene, "server", SILENT)?;
        send(&scene, "client", &to, DATAGRAMS)?;
        times += 3;
        let expected = Amount {
            packets: times * DATAGRAMS,
            bytes: times * DATAGRAMS * DATAGRAM,
        };
        let pair = ("client".to_owned(), "server".to_owned());
        eventually(PATIENCE, &format!("{program}: {expected:?}"), || {
            let paths = at_rest(&scene, Paths::without_chatter)?;
            Ok((paths.pairs.get(&pair) == Some(&expected)).then_some(()))
        })?;
        sums_agree(&scene)?;
    }
    Ok(())
}
