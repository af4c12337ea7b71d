//! Other tools' qdiscs and filters stay as they are, and dtm counts beside them.

use std::{net::UdpSocket, sync::MutexGuard, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::daemon::{Dtm, binary};
use xtask::host::{CgroupWorld, ContainerLink, Engine, EngineKind, EngineOptions, Host, Image, eventually};

use crate::{
    attached::{self, filters},
    scene::{PATIENCE, take_turn},
};

const IMAGE: &str = "dtm-test";
const NETWORK: &str = "front";
const CONTAINER: &str = "box";

/// Classic BPF that lets everything pass and ends the run of filters: `TC_ACT_OK`.
const FOREIGN: [&str; 8] = [
    "prio",
    "1",
    "protocol",
    "all",
    "bpf",
    "da",
    "bytecode",
    "1,6 0 0 0,",
];

/// An engine with a container, and what the kernel calls its host end.
struct Neighbourhood {
    engine: Engine,
    link: ContainerLink,
    host_end: String,
    _turn: MutexGuard<'static, ()>,
}

impl Neighbourhood {
    fn new() -> Result<Self> {
        let turn = take_turn();
        let engine = Engine::start(
            Host::new(CgroupWorld::V2)?,
            EngineOptions::new(EngineKind::newest()?),
        )?;
        let traffic = binary("traffic")?;
        let traffic = traffic.to_str().context("a path that is UTF-8")?;
        Image::busybox()?.with_program(traffic)?.import(&engine, IMAGE)?;
        engine.docker(["network", "create", NETWORK])?;
        let run = [
            "run",
            "--detach",
            "--name",
            CONTAINER,
            "--network",
            NETWORK,
            IMAGE,
        ];
        engine.docker(run.iter().chain(&["sleep", "infinity"]))?;
        let link = engine.container_link(CONTAINER, NETWORK)?;
        let links = engine.host().links()?;
        let host_end = links.iter().find(|candidate| candidate.ifindex == link.peer);
        let host_end = host_end.context("the container has no host end")?.name.clone();
        Ok(Self {
            engine,
            link,
            host_end,
            _turn: turn,
        })
    }

    fn tc(&self, arguments: &[&str]) -> Result<String> {
        self.engine.host().run("tc", arguments)
    }

    /// The qdiscs and filters of the host end.
    fn furniture(&self) -> Result<[String; 3]> {
        let host = self.engine.host();
        Ok([
            self.tc(&["qdisc", "show", "dev", &self.host_end])?,
            filters(host, &self.host_end, "ingress")?,
            filters(host, &self.host_end, "egress")?,
        ])
    }

    /// Datagrams both ways: dtm's count grows by exactly what the kernel's does.
    fn counts_exactly(&self, dtm: &Dtm) -> Result<()> {
        let before = self.both(dtm)?;
        let host = self.engine.host();
        let socket = host.network()?.enter(|| UdpSocket::bind("0.0.0.0:9"))?;
        let socket = socket.context("listen in the host")?;
        let address = |field: &str| {
            let format = format!("{{{{(index .NetworkSettings.Networks \"{NETWORK}\").{field}}}}}");
            self.engine.docker(["inspect", "--format", &format, CONTAINER])
        };
        let (own, gateway) = (address("IPAddress")?, address("Gateway")?);
        let to = format!("{gateway}:9");
        self.engine
            .docker(["exec", CONTAINER, "traffic", "udp-send", &to, "1000", "400"])?;
        for _datagram in 0..500 {
            socket
                .send_to(&[b'u'; 300], format!("{own}:9"))
                .context("send a datagram")?;
        }
        let after = self.both(dtm)?;
        let growth = |index: usize| {
            let ((kernel, counted), (kernel_before, counted_before)) = (after[index], before[index]);
            (kernel - kernel_before, counted - counted_before)
        };
        for index in [0, 1] {
            let (kernel, counted) = growth(index);
            assert_eq!(counted, kernel, "{before:?} {after:?}");
            ensure!(kernel > 500 * 300, "nothing was sent");
        }
        Ok(())
    }

    /// Of one moment: (the kernel's, dtm's) bytes that the container received, and that it sent.
    fn both(&self, dtm: &Dtm) -> Result<[(u64, u64); 2]> {
        let labels = [
            ("name", CONTAINER),
            ("network", NETWORK),
            ("interface", &self.link.name),
        ];
        let received = "dtm_container_network_receive_bytes_total";
        eventually(PATIENCE, "the container is named and its traffic pauses", || {
            let kernel = self.engine.host().link_statistics(self.link.peer)?;
            let samples = dtm.samples()?;
            let Some(received) = samples.find(received, &labels)? else {
                return Ok(None);
            };
            let sent = samples.get("dtm_container_network_transmit_bytes_total", &labels)?;
            let is_still = self.engine.host().link_statistics(self.link.peer)? == kernel;
            Ok(is_still.then_some([(kernel.tx_bytes, received), (kernel.rx_bytes, sent)]))
        })
    }
}

fn interfaces(dtm: &Dtm, state: &str, mode: &str) -> Result<u64> {
    dtm.samples()?
        .get("dtm_interfaces", &[("state", state), ("mode", mode)])
}

#[test]
fn a_foreign_filter_stays_first_in_line_for_its_owner_and_last_for_dtm() -> Result<()> {
    let scene = Neighbourhood::new()?;
    let host_end = scene.host_end.as_str();
    scene.tc(&["qdisc", "add", "dev", host_end, "clsact"])?;
    for side in ["ingress", "egress"] {
        let add = ["filter", "add", "dev", host_end, side];
        scene.tc(&[&add[..], &FOREIGN].concat())?;
    }
    let before = scene.furniture()?;
    for mode in ["clsact", "tcx"] {
        let dtm = Dtm::start(scene.engine.host(), &["--attach-mode", mode])?;
        scene.counts_exactly(&dtm)?;
        assert_eq!(interfaces(&dtm, "named", mode)?, 1);
        for (before, now) in before.iter().zip(scene.furniture()?) {
            for line in before.lines() {
                assert!(now.contains(line), "{line:?} is not in {now}");
            }
        }
        dtm.stop()?;
        assert_eq!(scene.furniture()?, before, "{mode}");
        assert_eq!(attached::to_interfaces(scene.engine.host())?, []);
    }
    Ok(())
}

#[test]
fn beside_an_ingress_qdisc_it_counts_by_tcx() -> Result<()> {
    let scene = Neighbourhood::new()?;
    scene.tc(&["qdisc", "add", "dev", &scene.host_end, "ingress"])?;
    let before = scene.furniture()?;

    let dtm = Dtm::start(scene.engine.host(), &["--attach-mode", "auto"])?;
    scene.counts_exactly(&dtm)?;
    assert_eq!(interfaces(&dtm, "named", "tcx")?, 1);
    assert_eq!(scene.furniture()?, before);
    dtm.stop()?;
    assert_eq!(scene.furniture()?, before);

    // Told to use nothing else, it says that it cannot, and leaves no half of it.
    let dtm = Dtm::start(scene.engine.host(), &["--attach-mode", "clsact"])?;
    assert_eq!(interfaces(&dtm, "failed", "none")?, 1);
    let errors = dtm
        .samples()?
        .get("dtm_attach_errors_total", &[("reason", "clsact")])?;
    assert!(errors >= 1);
    assert!(dtm.log().contains(&scene.host_end), "{}", dtm.log());
    assert_eq!(scene.furniture()?, before);
    dtm.stop()
}

#[test]
fn a_qdisc_that_somebody_took_away_is_mended() -> Result<()> {
    let scene = Neighbourhood::new()?;
    let dtm = Dtm::start(scene.engine.host(), &["--attach-mode", "clsact"])?;
    scene.counts_exactly(&dtm)?;
    let furniture = scene.furniture()?;
    scene.tc(&["qdisc", "del", "dev", &scene.host_end, "clsact"])?;
    // dtm looks every half minute.
    eventually(Duration::from_mins(1), "the programs are back", || {
        let attached = interfaces(&dtm, "named", "clsact")? == 1 && scene.furniture()? == furniture;
        Ok((attached && dtm.samples()?.get("dtm_reattached_total", &[])? == 1).then_some(()))
    })?;
    scene.counts_exactly(&dtm)?;
    dtm.stop()?;
    assert_eq!(attached::to_interfaces(scene.engine.host())?, []);
    Ok(())
}
