//! Traffic of known amounts, and what dtm and the kernel make of it.

use anyhow::{Context as _, Result, ensure};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::{
    scene::{Endpoint, IMAGE, Moved, PATIENCE, SILENT, Scene},
    watch::Watch,
};

/// What a container has received on a network.
pub const RECEIVED_BYTES: &str = "dtm_container_network_receive_bytes_total";
/// What it has sent.
pub const SENT_BYTES: &str = "dtm_container_network_transmit_bytes_total";
/// The same in packets.
pub const SENT_PACKETS: &str = "dtm_container_network_transmit_packets_total";
/// What the containers of a network have received.
pub const NETWORK_RECEIVED: &str = "dtm_network_containers_receive_bytes_total";
/// What they have sent.
pub const NETWORK_SENT: &str = "dtm_network_containers_transmit_bytes_total";

/// Payload of every datagram.
pub const PAYLOAD: u64 = 500;
/// A datagram on the wire: Ethernet, IPv4, UDP, payload.
pub const DATAGRAM: u64 = 14 + 20 + 8 + PAYLOAD;
/// An ARP request or answer on the wire.
pub const ARP: u64 = 42;
/// How long final totals stay in these tests.
pub const LINGER: &str = "3s";

/// An engine with a silent network and a receiver on it, watched by a dtm in this mode.
pub fn stage(options: EngineOptions, mode: &str) -> Result<(Scene, Watch)> {
    let mut scene = Scene::new(options)?;
    scene.make_silent_network()?;
    scene.start_dtm(&["--attach-mode", mode, "--linger", LINGER])?;
    start_receiver(&scene, "receiver")?;
    let watch = Watch::start(&scene)?;
    Ok((scene, watch))
}

/// Starts a container on the silent network that receives datagrams, and waits until dtm knows it.
pub fn start_receiver(scene: &Scene, name: &str) -> Result<()> {
    scene.run(name, SILENT, &["traffic", "udp-receive", "5002"])?;
    scene.wait_named(&scene.endpoint(name, SILENT)?)
}

/// As [`stage`], of an engine as it comes.
pub fn plain_stage(kind: EngineKind, mode: &str) -> Result<(Scene, Watch)> {
    stage(EngineOptions::new(kind), mode)
}

/// The address of a container's receiving socket.
pub fn port_of(scene: &Scene, container: &str, network: &str) -> Result<String> {
    Ok(format!("{}:5002", scene.address(container, network, false)?))
}

/// Sends datagrams of [`PAYLOAD`] from a running container.
pub fn send(scene: &Scene, from: &str, to: &str, datagrams: u64) -> Result<()> {
    let (count, size) = (datagrams.to_string(), PAYLOAD.to_string());
    scene
        .exec(from, &["traffic", "udp-send", to, &count, &size])
        .map(drop)
}

/// A shell script that sends `bursts` times ten datagrams of [`PAYLOAD`] to each of these.
pub fn bursts(to: &[&str], bursts: u64) -> String {
    let sends: Vec<_> = to
        .iter()
        .map(|to| format!("traffic udp-send {to} 10 {PAYLOAD} >/dev/null || exit 1"))
        .collect();
    format!("for i in $(seq {bursts}); do {}; done", sends.join("; "))
}

/// Starts a container on the silent network with these arguments of `docker run`.
pub fn run(scene: &Scene, name: &str, options: &[&str], script: &str) -> Result<()> {
    let run = ["run", "--detach", "--stop-signal", "KILL"];
    let place = ["--name", name, "--network", SILENT];
    let script = [IMAGE, "sh", "-c", script];
    scene
        .engine
        .docker(run.iter().chain(&place).chain(options).chain(&script))
        .map(drop)
}

/// The 12 digits of a container's id.
pub fn id_of(scene: &Scene, container: &str) -> Result<String> {
    let id = scene
        .engine
        .docker(["inspect", "--format", "{{.Id}}", container])?;
    id.get(..12).map(str::to_owned).context("an id of 64 digits")
}

/// What dtm says a container has sent over all its series: packets and bytes; none where it has no series.
pub fn sent(scene: &Scene, id: &str) -> Result<Option<(u64, u64)>> {
    let samples = scene.samples()?;
    let of = [("container_id", id)];
    let is_there = samples.all(SENT_BYTES, &of).next().is_some();
    Ok(is_there.then(|| (samples.sum(SENT_PACKETS, &of), samples.sum(SENT_BYTES, &of))))
}

/// Waits until a container has sent as many datagrams, and holds it to having sent nothing else but the questions and
/// answers that come before a datagram: each byte is accounted for.
pub fn has_sent(scene: &Scene, id: &str, datagrams: u64) -> Result<(u64, u64)> {
    let (packets, bytes) = eventually(PATIENCE, &format!("{id} has sent {datagrams} datagrams"), || {
        Ok(sent(scene, id)?.filter(|(_packets, bytes)| *bytes >= datagrams * DATAGRAM))
    })?;
    let asked = packets
        .checked_sub(datagrams)
        .with_context(|| format!("{packets} packets of {datagrams} datagrams"))?;
    ensure!(
        bytes == datagrams * DATAGRAM + asked * ARP,
        "{id} has sent {bytes} bytes in {packets} packets, {datagrams} of them datagrams"
    );
    ensure!(
        asked <= 4 + datagrams / 20,
        "{asked} packets beside {datagrams} datagrams"
    );
    Ok((packets, bytes))
}

/// What dtm has counted of one series, by the container's id.
pub fn counted(scene: &Scene, id: &str, endpoint: &Endpoint) -> Result<Moved> {
    let samples = scene.samples()?;
    let labels = [
        ("container_id", id),
        ("network", endpoint.network.as_str()),
        ("interface", endpoint.interface.as_str()),
    ];
    Ok((
        samples.get(RECEIVED_BYTES, &labels)?,
        samples.get(SENT_BYTES, &labels)?,
    ))
}

/// Waits until dtm's count of a series is what the kernel has counted over all its generations: `before`, and what it
/// says now.
pub fn goes_on(scene: &Scene, id: &str, endpoint: &Endpoint, before: Moved) -> Result<Moved> {
    scene.wait_named(endpoint)?;
    let counted = eventually(PATIENCE, "the traffic pauses", || {
        let kernel = scene.kernel(endpoint)?;
        let counted = counted(scene, id, endpoint)?;
        Ok((scene.kernel(endpoint)? == kernel).then_some((kernel, counted)))
    });
    let (kernel, counted) = counted?;
    let sum = (before.0 + kernel.0, before.1 + kernel.1);
    ensure!(
        counted == sum,
        "{endpoint:?}: {counted:?}, but the kernel {kernel:?} after {before:?}"
    );
    Ok(counted)
}

/// Waits for the number of containers that dtm says are in a state.
pub fn wait_state(scene: &Scene, state: &str, count: u64) -> Result<()> {
    eventually(PATIENCE, &format!("{count} containers are {state}"), || {
        let now = scene.samples()?.get("dtm_containers", &[("state", state)])?;
        Ok((now == count).then_some(()))
    })
}

/// Waits until a container has no series any more.
pub fn wait_gone(scene: &Scene, id: &str) -> Result<()> {
    eventually(PATIENCE, &format!("the series of {id} have gone"), || {
        let samples = scene.samples()?;
        let mut left = samples
            .iter()
            .filter(|sample| sample.labels.get("container_id").is_some_and(|known| known == id));
        Ok(left.next().is_none().then_some(()))
    })
}

/// How many of the gauges of a container are there: only while it lives.
pub fn gauges(scene: &Scene, id: &str) -> Result<usize> {
    let samples = scene.samples()?;
    let of = [("container_id", id)];
    let names = [
        "dtm_container_info",
        "dtm_container_start_time_seconds",
        "dtm_container_uncovered",
    ];
    Ok(names.iter().map(|name| samples.all(name, &of).count()).sum())
}

/// Waits until dtm says that Docker answers, or that it does not.
pub fn wait_docker(scene: &Scene, up: u64) -> Result<()> {
    eventually(PATIENCE, &format!("dtm_docker_up is {up}"), || {
        Ok((scene.samples()?.get("dtm_docker_up", &[])? == up).then_some(()))
    })
}
