//! Names, labels and networks as strange as an engine and a kernel let them be: all of it is other people's text.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::scene::{IMAGE, PATIENCE, Scene};
use serde_json::{Value, json};
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::{
    exposition::{promtool_finds_nothing, the_strict_parser_finds_nothing},
    server::Prometheus,
};

/// Everything that means something to a format, and what looks like its lines.
const STRANGE: &str = "a\"b\\c\nd\re\u{1F433}\\\"\n# EOF\n# TYPE x counter\n{}=,' \u{2028}\u{85}\t\0\\";
/// What the kernel takes for an interface, whose names have at most 15 bytes without white space, `/` and `:`.
const INTERFACE: &str = "\"\\{}=,#\u{1F433}'";
const RECEIVED: &str = "dtm_container_network_receive_bytes_total";

/// Asks the engine for what its command line would not.
fn post(scene: &Scene, path: &str, body: &Value) -> Result<Value> {
    let mut socket = UnixStream::connect(scene.engine.socket_outside()).context("connect to the engine")?;
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).context("ask the engine")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).context("hear the engine")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let is_done = head
        .split(' ')
        .nth(1)
        .is_some_and(|status| status.starts_with('2'));
    ensure!(is_done, "{path}: {head}: {body}");
    Ok(serde_json::from_str(body).unwrap_or_default())
}

/// Makes a container with strange labels on a strange network, and starts it.
fn run(scene: &Scene, name: &str, network: &str, long: &str) -> Result<String> {
    let id = post(
        scene,
        "/networks/create",
        &json!({ "Name": network, "CheckDuplicate": true }),
    )?;
    let network_id = id["Id"].as_str().context("the network has an id")?;
    let labels = json!({
        "team": STRANGE,
        "com.example/Team \u{E9}": long,
        "com.docker.compose.project": STRANGE,
        "com.docker.compose.service": long,
        "com.docker.swarm.service.name": "",
        // What events carry their own names in.
        "name": "somebody-else",
        "image": "something-else",
        "container": "f00",
        "": "nameless",
    });
    let container = json!({
        "Image": IMAGE,
        "Cmd": ["sleep", "3600"],
        "Labels": labels,
        "HostConfig": { "NetworkMode": network_id, "CapAdd": ["NET_ADMIN"] },
    });
    let made = post(scene, &format!("/containers/create?name={name}"), &container)?;
    let id = made["Id"].as_str().context("the container has an id")?;
    post(scene, &format!("/containers/{id}/start"), &Value::Null)?;
    Ok(id[..12].to_owned())
}

fn other_peoples_text_is_only_text(kind: EngineKind) -> Result<()> {
    let mut scene = Scene::new(EngineOptions::new(kind))?;
    let long = "\"\\\n\u{1F433}".repeat(1_500);
    assert!(long.len() > 10_000);
    let long_name = "n".repeat(10_000);
    let allowed = "--container-labels=team,com.example/Team \u{E9}";
    // Nothing of it is to be gone on with: the next one sees all of it anew.
    scene.start_dtm(&[allowed, "--no-pin"])?;
    let id = run(&scene, "strange", STRANGE, &long)?;
    let renamed = run(&scene, &long_name, "\u{1F433}", "")?;
    // This one's interface has its own name for it by the time dtm comes.
    let rename = "ip link set eth0 down && ip link set eth0 name \"$0\" && ip link set \"$0\" up";
    scene.exec(&renamed, &["sh", "-c", rename, INTERFACE])?;
    let seen_from_birth = [("container_id", id.as_str()), ("interface", "eth0")];
    eventually(PATIENCE, "it is named", || {
        Ok(scene.samples()?.find(RECEIVED, &seen_from_birth)?.map(drop))
    })?;
    promtool_finds_nothing(scene.dtm()?)?;
    the_strict_parser_finds_nothing(scene.dtm()?)?;
    scene.stop_dtm()?;
    scene.start_dtm(&[allowed])?;

    let prometheus = Prometheus::start(scene.host(), scene.dtm()?.address())?;
    let of = |name: &str, id: &str, label: &str| -> Result<Vec<String>> {
        prometheus.label_values(&format!("{name}{{container_id=\"{id}\"}}"), label)
    };
    eventually(PATIENCE, "Prometheus has scraped both", || {
        let both = [of(RECEIVED, &id, "network")?, of(RECEIVED, &renamed, "network")?];
        Ok(both.iter().all(|values| !values.is_empty()).then_some(()))
    })
    .with_context(|| format!("{:?}", prometheus.scrape_error()))?;
    let info = "dtm_container_info";
    for (name, id, label, expected) in [
        (RECEIVED, &id, "network", STRANGE),
        (RECEIVED, &id, "name", "strange"),
        (RECEIVED, &renamed, "network", "\u{1F433}"),
        (RECEIVED, &renamed, "interface", INTERFACE),
        (RECEIVED, &renamed, "name", &long_name),
        (info, &id, "label_team", STRANGE),
        (info, &id, "label_com_example_Team__", &long),
        (info, &id, "compose_project", STRANGE),
        (info, &id, "compose_service", &long),
        (info, &id, "image", IMAGE),
    ] {
        assert_eq!(of(name, id, label)?, [expected], "{label}");
    }
    assert_eq!(of(info, &id, "swarm_service")?, Vec::<String>::new());
    assert_eq!(prometheus.scrape_error()?, None);
    promtool_finds_nothing(scene.dtm()?)?;
    the_strict_parser_finds_nothing(scene.dtm()?)
}

#[test]
fn other_peoples_text_is_only_text_on_the_old_engine() -> Result<()> {
    other_peoples_text_is_only_text(EngineKind::Old)
}

#[test]
fn other_peoples_text_is_only_text_on_the_current_engine() -> Result<()> {
    other_peoples_text_is_only_text(EngineKind::Current)
}
