//! The configuration as a whole. What depends on the environment is in `tests/usage.rs`, which starts the binary.

use std::{fs, path::PathBuf, process, time::Duration};

use super::*;

fn parse(arguments: &[&str]) -> Result<Config, Refusal> {
    let arguments = std::iter::once("dtm")
        .chain(arguments.iter().copied())
        .map(OsString::from);
    Config::from_arguments(arguments.collect(), None)
}

fn problem(arguments: &[&str]) -> String {
    match parse(arguments) {
        Err(Refusal::Usage(line)) => line,
        other => panic!("{arguments:?} gave {other:?}"),
    }
}

/// A configuration file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dtm-config-{}-{name}.toml", process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn without_arguments_everything_has_its_default() {
    let expected = Config {
        listen_addresses: vec![ListenAddress::Any(10048)],
        telemetry_path: "/metrics".to_owned(),
        host: HostConfig {
            docker_host: DockerHost::Unix(PathBuf::from("/var/run/docker.sock")),
            attach_mode: AttachMode::Auto,
            paths: Paths {
                procfs: PathBuf::from("/proc"),
                docker_netns: PathBuf::from("/var/run/docker/netns"),
                bpffs: PathBuf::from("/sys/fs/bpf"),
            },
            btf: PathBuf::from("/sys/kernel/btf/vmlinux"),
            uplinks: Vec::new(),
        },
        linger: Duration::from_mins(5),
        max_interfaces: 8192,
        no_scopes: false,
        no_flows: false,
        no_tcp: false,
        no_tcp_rtt: false,
        max_pairs: 2000,
        no_pin: false,
        container_labels: ContainerLabels::default(),
        log_filter: "info".to_owned(),
        log_format: LogFormat::Text,
    };
    assert_eq!(parse(&[]), Ok(expected.clone()));
    assert_eq!(parse(&["serve"]), Ok(expected));
}

#[test]
fn there_are_only_so_many_uplinks() {
    let names: Vec<_> = (0..17).map(|number| format!("eth{number}")).collect();
    let flag = |names: &[String]| format!("--xdp={}", names.join(","));
    assert_eq!(parse(&[&flag(&names[..16])]).unwrap().host.uplinks, names[..16]);
    let Err(Refusal::Usage(line)) = parse(&[&flag(&names)]) else {
        panic!("17 were taken")
    };
    assert!(
        line.contains("'--xdp <INTERFACE>': 17 interfaces, and at most 16"),
        "{line}"
    );
}

#[test]
fn flags_are_the_same_with_and_without_the_command() {
    let flags = [
        "--web.listen-address=:1",
        "--web.listen-address",
        "[::1]:2,127.0.0.1:3,:1",
        "--attach-mode=tcx",
        "--linger=1h",
        "--container-labels=a,b",
        "--container-labels=c",
        "--log.format=json",
    ];
    let config = parse(&flags).unwrap();
    let addresses: Vec<_> = config.listen_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, [":1", "[::1]:2", "127.0.0.1:3"]);
    assert_eq!(config.host.attach_mode, AttachMode::Tcx);
    assert_eq!(config.linger, Duration::from_hours(1));
    assert_eq!(config.container_labels.iter().count(), 3);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(parse(&[&["serve"], &flags[..]].concat()), Ok(config));
}

#[test]
fn a_wrong_value_is_one_line_that_names_flag_and_remedy() {
    for (arguments, parts) in [
        (&["--no-such-flag"][..], &["'--no-such-flag'"][..]),
        (
            &["--lingr=1"],
            &["'--lingr'", "similar argument exists: '--linger'"],
        ),
        (&["top"], &["'top'"]),
        (&["serve", "top"], &["'top'"]),
        (&["--linger"], &["'--linger <DURATION>'"]),
        (
            &["--linger=soon"],
            &["'soon'", "'--linger <DURATION>'", "such as 5m"],
        ),
        (
            &["--linger=1m", "--linger=2m"],
            &["'--linger <DURATION>'", "multiple times"],
        ),
        (
            &["--attach-mode=xdp"],
            &["'xdp'", "possible values: auto, tcx, clsact"],
        ),
        (&["--max-interfaces=63"], &["63 is not in 64..=65536"]),
        (
            &["--web.listen-address=localhost:1"],
            &["host names are not looked up"],
        ),
        (
            &["--container-labels=a.b,a_b"],
            &["'--container-labels <LABEL>'", "label_a_b"],
        ),
        (&["--log.level=lots"], &["expected error, warn"]),
        (&["--path.procfs=proc"], &["absolute path"]),
        (&["--path.docker-netns=netns"], &["absolute path"]),
        (&["--docker.host=ssh://x"], &["ssh:// is not supported"]),
        (
            &["--config=/nonexistent/dtm.toml"],
            &["/nonexistent/dtm.toml", "No such file"],
        ),
        (&["--linger=a\nb"], &["'a b'"]),
    ] {
        let line = problem(arguments);
        assert!(line.ends_with("; try 'dtm --help'"), "{line}");
        assert!(!line.contains('\n') && !line.contains("error:"), "{line}");
        for part in parts {
            assert!(line.contains(part), "{line} lacks {part}");
        }
    }
}

#[test]
fn help_and_version_are_answers_and_help_names_every_setting_and_variable() {
    let Err(Refusal::Answer(help)) = parse(&["--help"]) else {
        panic!("no help")
    };
    for key in [
        "web.listen-address",
        "docker.host",
        "container-labels",
        "log.format",
        "config",
        "path.btf",
    ] {
        let variable = format!("DTM_{}", key.to_uppercase().replace(['.', '-'], "_"));
        assert!(
            help.contains(&format!("--{key} ")) && help.contains(&variable),
            "{key} is missing in {help}"
        );
    }
    let Err(Refusal::Answer(version)) = parse(&["--version"]) else {
        panic!("no version")
    };
    assert!(version.starts_with(&format!("dtm {VERSION}")), "{version}");
    assert!(matches!(parse(&["serve", "--help"]), Err(Refusal::Answer(_))));
}

#[test]
fn the_file_fills_in_what_no_flag_says() {
    let text = "linger = '1m'\nattach-mode = 'clsact'\nmax-interfaces = 100\ncontainer-labels = ['x', 'y']\n\
                [web]\nlisten-address = [':1', ':2']\n";
    let file = File::new("fills", text);
    let config = parse(&[
        "serve",
        "--config",
        file.path(),
        "--attach-mode=tcx",
        "--web.listen-address=:3",
    ])
    .unwrap();
    assert_eq!(config.linger, Duration::from_mins(1));
    assert_eq!(config.host.attach_mode, AttachMode::Tcx);
    assert_eq!(config.max_interfaces, 100);
    assert_eq!(config.container_labels.iter().count(), 2);
    assert_eq!(config.listen_addresses, [ListenAddress::Any(3)]);
}

#[test]
fn a_wrong_file_is_one_line_that_names_file_and_key() {
    for (name, text, part) in [
        ("unknown", "lingr = 1", "unknown key \"lingr\""),
        ("config", "config = 'other.toml'", "unknown key \"config\""),
        ("help", "help = 'x'", "unknown key \"help\""),
        (
            "value",
            "[log]\nformat = 'xml'",
            "'--log.format <FORMAT>' [possible values: text, json]",
        ),
        ("syntax", "linger", "line 1: "),
        ("labels", "container-labels = ['a.b', 'a-b']", "label_a_b"),
    ] {
        let file = File::new(name, text);
        let line = problem(&["--config", file.path()]);
        assert!(line.contains(part) && !line.contains('\n'), "{line}");
    }
}

#[test]
fn dockers_own_variable_is_below_the_flag_and_above_the_file() {
    let file = File::new("docker", "docker.host = 'unix:///file'");
    let with = |arguments: &[&str], variable: &str| {
        let arguments = [&["dtm", "--config", file.path()], arguments].concat();
        Config::from_arguments(
            arguments.into_iter().map(OsString::from).collect(),
            Some(variable.into()),
        )
        .map(|config| config.host.docker_host.to_string())
    };
    assert_eq!(
        with(&["--docker.host=unix:///flag"], "unix:///variable").unwrap(),
        "unix:///flag"
    );
    assert_eq!(
        with(&["--docker.host=unix:///flag"], "ssh://variable").unwrap(),
        "unix:///flag"
    );
    assert_eq!(with(&[], "unix:///variable").unwrap(), "unix:///variable");
    assert_eq!(with(&[], "").unwrap(), "unix:///file");
    let line = with(&[], "ssh://variable").unwrap_err().to_string();
    assert!(
        line.starts_with("DOCKER_HOST is \"ssh://variable\": ssh:// is not supported"),
        "{line}"
    );
}

#[test]
fn check_takes_what_matters_to_it_and_the_rest_of_the_file_as_it_is() {
    let file = File::new(
        "check",
        "linger = '1m'\nattach-mode = 'clsact'\ndocker.host = 'unix:///file'\n",
    );
    let check = |arguments: &[&str]| {
        let arguments = [&["dtm", "check"], arguments].concat().into_iter();
        Task::from_arguments(arguments.map(OsString::from).collect(), None)
    };
    let expected = HostConfig {
        docker_host: DockerHost::Unix(PathBuf::from("/file")),
        attach_mode: AttachMode::Clsact,
        paths: Paths {
            procfs: PathBuf::from("/host/proc"),
            docker_netns: PathBuf::from("/var/run/docker/netns"),
            bpffs: PathBuf::from("/sys/fs/bpf"),
        },
        btf: PathBuf::from("/sys/kernel/btf/vmlinux"),
        uplinks: vec!["eth0".to_owned(), "br-lan".to_owned()],
    };
    let got = check(&[
        "--config",
        file.path(),
        "--path.procfs=/host/proc",
        "--xdp=eth0,br-lan",
        "--xdp=eth0",
    ]);
    assert_eq!(got, Ok(Task::Check(expected)));
    for (arguments, part) in [
        (&["--linger=1m"][..], "'--linger'"),
        (&["--attach-mode=xdp"], "possible values: auto, tcx, clsact"),
        (&["--xdp=eth0,"], "the name of an interface"),
        (&["everything"], "'everything'"),
    ] {
        let Err(Refusal::Usage(line)) = check(arguments) else {
            panic!("{arguments:?} was taken")
        };
        assert!(line.contains(part), "{line}");
    }
    let Err(Refusal::Answer(help)) = check(&["--help"]) else {
        panic!("no help")
    };
    for part in [
        "--docker.host",
        "--path.docker-netns",
        "DTM_ATTACH_MODE",
        "Exit code 0",
    ] {
        assert!(help.contains(part), "{part} is missing in {help}");
    }
}
