//! `dtm check` and `/api/v1/interfaces`: where containers are counted, by the kernel's and the engine's own word.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use dtm_tests::{
    attached,
    daemon::{binary, get},
    scene::{FRONT, PATIENCE, Scene as Docker},
};
use serde_json::Value;
use xtask::host::{EngineKind, EngineOptions, eventually};

use crate::scene::{Scene, take_turn};

/// What containers do all day.
const SLEEP: [&str; 2] = ["sleep", "3600"];
/// A macvlan network on an interface that leads nowhere.
const LAN: &str = "lan";

/// What `dtm check` said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl Said {
    /// Runs it as `command` starts it.
    pub(crate) fn by(command: &mut Command) -> Result<Self> {
        let output = command.output().context("run dtm check")?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(errors.is_empty(), "dtm check complains: {errors}");
        Ok(Self {
            code: output.status.code(),
            text: String::from_utf8(output.stdout).context("what dtm check says is no text")?,
        })
    }

    /// The words of its lines about `subject`, the verdict first.
    pub(crate) fn about(&self, subject: &str) -> Vec<String> {
        let lines = self.text.lines().filter_map(|line| {
            let (verdict, rest) = line.trim().split_once(' ')?;
            let found = rest.trim().strip_prefix(subject)?;
            let words: Vec<_> = found.strip_prefix(' ')?.split_whitespace().collect();
            Some(format!("{verdict} {}", words.join(" ")))
        });
        lines.collect()
    }
}

/// Runs `dtm check` in a host with Docker.
fn check(docker: &Docker, arguments: &[&str]) -> Result<Said> {
    let mut command = docker.host().command(binary("dtm")?);
    Said::by(command.arg("check").args(arguments))
}

/// Names of dtm's programs that are loaded on this machine, whatever they are attached to.
fn loaded() -> Vec<String> {
    let mut names = Vec::new();
    for program in loaded_programs() {
        // One that goes meanwhile is none.
        let Ok(program) = program else { continue };
        names.extend(
            program
                .name_as_str()
                .filter(|name| name.starts_with("dtm_"))
                .map(str::to_owned),
        );
    }
    names.sort_unstable();
    names
}

/// An engine with a container in each network mode that needs no second host.
fn containers(kind: EngineKind) -> Result<Docker> {
    let docker = Docker::new(EngineOptions::new(kind))?;
    docker.host().run(
        "sh",
        [
            "-euc",
            "ip link add parent0 type veth peer name nobody; ip link set parent0 up",
        ],
    )?;
    let create = ["network", "create", "--driver=macvlan", "--opt=parent=parent0"];
    docker
        .engine
        .docker(create.iter().chain(&["--subnet=10.77.0.0/24", LAN]))?;
    docker.run("web", FRONT, &SLEEP)?;
    docker.run("proxy", "host", &SLEEP)?;
    docker.run("alone", "none", &SLEEP)?;
    docker.run("sidecar", "container:web", &SLEEP)?;
    docker.run("device", LAN, &SLEEP)?;
    Ok(docker)
}

/// Holds what `dtm check` says of [`containers`] to what they are.
fn names_every_container(said: &Said) {
    for (container, expected) in [
        ("web", "ok front bridge host end"),
        ("proxy", "ok host host cgroup"),
        ("alone", "ok none null nothing to count"),
        ("sidecar", "ok - - under web"),
        ("device", "ok lan macvlan own device"),
    ] {
        assert_eq!(said.about(container), [expected], "{}", said.text);
    }
    for subject in ["programs", "drops", "control groups", "engine", "processes"] {
        let about = said.about(subject);
        assert!(
            about.len() == 1 && about[0].starts_with("ok "),
            "{subject}: {}",
            said.text
        );
    }
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(
        said.text
            .ends_with("Everything that dtm counts can be counted here.\n"),
        "{}",
        said.text
    );
}

/// The places that dtm shows of a container.
fn places<'a>(shown: &'a Value, container: &str) -> Result<Vec<&'a Value>> {
    let all = shown["interfaces"].as_array().context("a list of interfaces")?;
    Ok(all.iter().filter(|place| place["name"] == container).collect())
}

fn shown(docker: &Docker) -> Result<Value> {
    let network = docker.host().network()?;
    let answer = get(&network, docker.dtm()?.address(), "/api/v1/interfaces", &[])?;
    ensure!(answer.status == 200, "answered with {}", answer.status);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_slice(&answer.body).context("parse the interfaces")
}

/// The one place of a container, once it has its name.
fn named(docker: &Docker, container: &str) -> Result<Value> {
    eventually(PATIENCE, &format!("{container} is named"), || {
        let shown = shown(docker)?;
        let places = places(&shown, container)?;
        Ok((places.len() == 1).then(|| places[0].clone()))
    })
}

/// Holds `/api/v1/interfaces` to what ip, the kernel and the engine say.
fn shows_every_place(docker: &Docker) -> Result<()> {
    let links = docker.host().run("ip", ["-json", "link", "show"])?;
    let links: Vec<Value> = serde_json::from_str(&links).context("parse what ip shows")?;
    let link = |ifindex: u32| {
        let mut links = links.iter();
        let link = links.find(|link| link["ifindex"] == ifindex);
        link.with_context(|| format!("ip does not show {ifindex}"))
    };
    let web = named(docker, "web")?;
    let endpoint = docker.endpoint("web", FRONT)?;
    let host_end = link(endpoint.host_end)?;
    for (field, expected) in [
        ("hook", &Value::from("host_end")),
        ("state", &"named".into()),
        ("namespace", &"host".into()),
        ("network", &FRONT.into()),
        ("driver", &"bridge".into()),
        ("interface", &endpoint.interface.into()),
        ("ifindex", &host_end["ifindex"]),
        ("device", &host_end["ifname"]),
        ("cgroup", &Value::Null),
    ] {
        assert_eq!(&web[field], expected, "{field}: {web}");
    }

    let proxy = named(docker, "proxy")?;
    let group = docker.engine.container_cgroup("proxy")?;
    let path = proxy["cgroup"].as_str().context("a group")?;
    let group = group.to_string_lossy();
    assert!(group.ends_with(path), "{path} is not {group}");
    for (field, expected) in [
        ("hook", Value::from("cgroup")),
        ("mode", "cgroup".into()),
        ("network", "host".into()),
        ("interface", "".into()),
        ("ifindex", Value::Null),
        ("namespace", Value::Null),
    ] {
        assert_eq!(proxy[field], expected, "{field}: {proxy}");
    }

    let device = named(docker, "device")?;
    let link_inside = docker.engine.container_link("device", LAN)?;
    let process = docker
        .engine
        .docker(["inspect", "--format", "{{.State.Pid}}", "device"])?;
    let namespace = std::fs::read_link(format!("/proc/{process}/ns/net")).context("read its namespace")?;
    for (field, expected) in [
        ("hook", Value::from("own_device")),
        ("driver", "macvlan".into()),
        ("ifindex", link_inside.ifindex.into()),
        ("namespace", namespace.to_string_lossy().into()),
    ] {
        assert_eq!(device[field], expected, "{field}: {device}");
    }

    let shown = shown(docker)?;
    for container in ["alone", "sidecar"] {
        assert_eq!(places(&shown, container)?, [] as [&Value; 0], "{shown}");
    }
    let bridges = shown["interfaces"].as_array().context("a list")?;
    let bridges = bridges.iter().filter(|place| place["hook"] == "bridge");
    for bridge in bridges {
        let ifindex = bridge["ifindex"].as_u64().context("an index")?;
        assert_eq!(bridge["device"], link(ifindex as u32)?["ifname"], "{bridge}");
    }
    assert_eq!(shown["uncovered"], Value::Array(Vec::new()), "{shown}");
    Ok(())
}

fn every_container_is_where_they_say(kind: EngineKind) -> Result<()> {
    let _turn = take_turn();
    let mut docker = containers(kind)?;
    let before = loaded();
    names_every_container(&check(&docker, &[])?);
    assert_eq!(attached::to_interfaces(docker.host())?, []);
    // The kernel takes programs off in its own time.
    eventually(PATIENCE, "nothing of it is loaded any more", || {
        Ok((loaded() == before).then_some(()))
    })?;

    docker.start_dtm(&[])?;
    shows_every_place(&docker)?;
    let attached = attached::to_interfaces(docker.host())?;
    assert!(!attached.is_empty());
    names_every_container(&check(&docker, &[])?);
    assert_eq!(attached::to_interfaces(docker.host())?, attached);
    shows_every_place(&docker)?;
    assert_eq!(docker.samples()?.sum("dtm_reattached_total", &[]), 0);
    docker.stop_dtm()
}

#[test]
fn every_container_is_where_they_say_on_the_old_engine() -> Result<()> {
    every_container_is_where_they_say(EngineKind::Old)
}

#[test]
fn every_container_is_where_they_say_on_the_current_engine() -> Result<()> {
    every_container_is_where_they_say(EngineKind::Current)
}

/// As a dtm in a container without `--network host` and without the host's processes is.
#[test]
fn from_where_containers_are_out_of_sight_check_says_which_are_missing() -> Result<()> {
    let _turn = take_turn();
    let docker = Docker::new(EngineOptions::new(EngineKind::newest()?))?;
    docker.run("web", FRONT, &SLEEP)?;
    docker.run("proxy", "host", &SLEEP)?;
    let mut command = docker.host().command("unshare");
    command.args(["--net", "--pid", "--fork", "--mount", "--mount-proc", "--"]);
    let said = Said::by(command.arg(binary("dtm")?).arg("check"))?;
    assert_eq!(said.code, Some(1), "{}", said.text);
    assert_eq!(
        said.about("web"),
        ["missing front bridge not counted: bridge_not_found"],
        "{}",
        said.text
    );
    for (subject, part) in [("network namespace", "0 of 3"), ("processes", "0 of 1")] {
        let about = said.about(subject);
        assert!(
            about.len() == 1 && about[0].starts_with("missing ") && about[0].contains(part),
            "{subject}: {}",
            said.text
        );
    }
    for advice in ["--network host", "--pid host"] {
        assert!(said.text.contains(advice), "{}", said.text);
    }
    Ok(())
}

#[test]
fn without_docker_check_says_so_and_what_the_host_offers() -> Result<()> {
    let scene = Scene::new()?;
    let said = Said::by(scene.host.command(binary("dtm")?).arg("check"))?;
    assert_eq!(said.code, Some(1), "{}", said.text);
    let engine = said.about("engine");
    assert!(
        engine.len() == 1 && engine[0].starts_with("missing ") && engine[0].contains("docker"),
        "{}",
        said.text
    );
    assert!(said.text.contains("unix:///var/run/docker.sock"), "{}", said.text);
    assert!(
        said.text
            .ends_with("Not everything can be counted here, for: engine.\n"),
        "{}",
        said.text
    );
    assert_eq!(attached::to_interfaces(&scene.host)?, []);
    Ok(())
}

#[test]
fn without_rights_check_names_them() -> Result<()> {
    let scene = Scene::new()?;
    let mut command = scene.host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    let said = Said::by(command.arg(binary("dtm")?).arg("check"))?;
    assert_eq!(said.code, Some(1), "{}", said.text);
    let permissions = said.about("permissions");
    assert_eq!(
        permissions,
        ["missing without CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF"],
        "{}",
        said.text
    );
    assert!(
        said.about("programs")[0].contains("not permitted"),
        "{}",
        said.text
    );
    assert!(said.text.contains("--privileged"), "{}", said.text);
    Ok(())
}
