//! The binary's answers to wrong and right command lines, and to its environment.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::process::{Command, Output};

fn dtm(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dtm"));
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied());
    command.output().unwrap()
}

/// The one line of a usage error.
fn usage_error(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = dtm(arguments, environment);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(64),
        "{arguments:?} {environment:?}: {text}"
    );
    assert!(output.stdout.is_empty());
    assert!(
        text.starts_with("dtm: ") && text.ends_with("; try 'dtm --help'\n"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_wrong_flag_is_one_line_and_64() {
    assert!(usage_error(&["--bogus"], &[]).contains("'--bogus'"));
    assert!(usage_error(&["serve", "--linger=never"], &[]).contains("'--linger <DURATION>'"));
    assert!(usage_error(&["bogus"], &[]).contains("'bogus'"));
}

#[test]
fn help_and_version_are_on_standard_output_and_0() {
    for (arguments, start) in [
        (&["--help"][..], "Docker Traffic Monitor"),
        (&["serve", "--help"], "Count, and serve"),
        (&["--version"], concat!("dtm ", env!("CARGO_PKG_VERSION"))),
    ] {
        let output = dtm(arguments, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(
            String::from_utf8(output.stdout).unwrap().starts_with(start),
            "{arguments:?}"
        );
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn variables_are_read_and_lose_to_flags() {
    for serve in [&[][..], &["serve"]] {
        let line = usage_error(serve, &[("DTM_MAX_INTERFACES", "1")]);
        assert!(line.contains("'--max-interfaces <NUMBER>'"), "{line}");
        let line = usage_error(serve, &[("DTM_WEB_LISTEN_ADDRESS", ":1,nowhere:2")]);
        assert!(line.contains("'nowhere:2'"), "{line}");
        // The variable is right and the flag is not: had the variable won, nothing would be wrong.
        let line = usage_error(
            &[serve, &["--log.level=loud"]].concat(),
            &[("DTM_LOG_LEVEL", "info")],
        );
        assert!(line.contains("'loud'"), "{line}");
        let line = usage_error(serve, &[("DOCKER_HOST", "ssh://host")]);
        assert!(line.contains("DOCKER_HOST is \"ssh://host\""), "{line}");
        // dtm's own variable comes before Docker's.
        let both = [("DOCKER_HOST", "ssh://host"), ("DTM_DOCKER_HOST", "nonsense")];
        let line = usage_error(serve, &both);
        assert!(line.contains("'nonsense'"), "{line}");
    }
    // Help needs no right environment.
    assert_eq!(
        dtm(&["--help"], &[("DTM_LINGER", "bogus")]).status.code(),
        Some(0)
    );
}

#[test]
fn a_failure_is_one_line_and_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let socket = std::env::temp_dir().join(format!("dtm-usage-{}.sock", std::process::id()));
    let docker = format!("--docker.host=unix://{}", socket.display());
    let listen = format!("--web.listen-address={address}");
    let output = dtm(&[&docker, &listen, "--log.level=off"], &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with(&format!("dtm: listen on {address}")), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
