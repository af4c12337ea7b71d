//! Hosts that offer everything, nothing, and all but one thing.

use super::*;
use crate::check::table::Report;

fn best() -> Seen {
    Seen {
        release: "6.18.5-amd64".to_owned(),
        capabilities: u64::MAX,
        loaded: Loaded {
            types: Ok(()),
            programs: Ok(Programs {
                drops: true,
                reasons: true,
                groups: Ok(()),
                births: Ok(()),
                uplinks: Ok(()),
            }),
        },
        attach_mode: AttachMode::Auto,
        has_tcx: true,
        groups: Groups {
            mounted: Ok(true),
            has_v1: false,
        },
        pins: Pins {
            path: "/sys/fs/bpf".to_owned(),
            found: Ok(Bpffs::Mounted),
        },
        uplinks: Vec::new(),
    }
}

fn report(seen: Seen) -> Report {
    let host = Host {
        seen,
        hierarchy: None,
    };
    let mut report = Report::new(host.kernel());
    report.add("Host", host.findings());
    report
}

#[test]
fn a_host_that_offers_everything_is_complete() {
    let report = report(best());
    assert!(report.is_complete());
    insta::assert_snapshot!("best_host", report.to_string());
}

#[test]
fn a_host_that_offers_nothing_says_so_line_by_line() {
    let report = report(Seen {
        release: "5.4.0".to_owned(),
        capabilities: 1 << 12,
        loaded: Loaded {
            types: Err("read the kernel's type information from /btf: not found".to_owned()),
            programs: Err("load the kernel side: not permitted".to_owned()),
        },
        attach_mode: AttachMode::Tcx,
        has_tcx: false,
        groups: Groups {
            mounted: Err("No such device".to_owned()),
            has_v1: true,
        },
        pins: Pins {
            path: "/sys/fs/bpf".to_owned(),
            found: Err("Read-only file system (os error 30)".to_owned()),
        },
        uplinks: vec![("eth0".to_owned(), Ok(()))],
    });
    insta::assert_snapshot!("worst_host", report.to_string());
}

#[test]
fn each_thing_that_lacks_is_what_is_missing() {
    let programs = |programs| Loaded {
        types: Ok(()),
        programs: Ok(programs),
    };
    let refused = || Err("refused".to_owned());
    let pins = |found| Pins {
        path: "/sys/fs/bpf".to_owned(),
        found: Ok(found),
    };
    let all = Programs {
        drops: true,
        reasons: true,
        groups: Ok(()),
        births: Ok(()),
        uplinks: Ok(()),
    };
    for (seen, missing) in [
        (
            Seen {
                has_tcx: false,
                ..best()
            },
            None,
        ),
        (
            Seen {
                has_tcx: false,
                attach_mode: AttachMode::Tcx,
                ..best()
            },
            Some("attaching"),
        ),
        (
            Seen {
                loaded: programs(Programs {
                    reasons: false,
                    ..all.clone()
                }),
                ..best()
            },
            Some("drops"),
        ),
        (
            Seen {
                loaded: programs(Programs {
                    groups: refused(),
                    ..all.clone()
                }),
                ..best()
            },
            Some("group programs"),
        ),
        (
            Seen {
                loaded: programs(Programs {
                    births: refused(),
                    ..all
                }),
                ..best()
            },
            Some("births of groups"),
        ),
        (
            Seen {
                groups: Groups {
                    mounted: Ok(false),
                    has_v1: false,
                },
                ..best()
            },
            Some("control groups"),
        ),
        (
            Seen {
                capabilities: !(1 << 39),
                ..best()
            },
            Some("permissions"),
        ),
        (
            Seen {
                pins: pins(Bpffs::ToMount),
                ..best()
            },
            None,
        ),
        (
            Seen {
                pins: pins(Bpffs::InContainer),
                ..best()
            },
            Some("pins"),
        ),
    ] {
        is_all_that_is_missing(seen, missing);
    }
}

/// What cannot be counted at uplinks is missing where somebody wants it.
#[test]
fn uplinks_are_missing_where_they_are_named() {
    let refused = || Err("refused".to_owned());
    let named = || vec![("eth0".to_owned(), Ok(()))];
    let unloaded = Seen {
        loaded: Loaded {
            programs: best().loaded.programs.map(|programs| Programs {
                uplinks: refused(),
                ..programs
            }),
            ..best().loaded
        },
        ..best()
    };
    let named_but_old = Seen {
        release: "5.8.0".to_owned(),
        uplinks: named(),
        ..best()
    };
    let one_refused = Seen {
        uplinks: vec![named().remove(0), ("wan".to_owned(), refused())],
        ..best()
    };
    for (seen, missing) in [
        (unloaded.clone(), None),
        (
            Seen {
                uplinks: named(),
                ..unloaded
            },
            Some("uplinks"),
        ),
        (named_but_old, Some("uplinks")),
        (one_refused, Some("uplink wan")),
    ] {
        is_all_that_is_missing(seen, missing);
    }
}

fn is_all_that_is_missing(seen: Seen, missing: Option<&str>) {
    let text = report(seen).to_string();
    let expected = missing.map_or("Everything that dtm counts".to_owned(), |missing| {
        format!("Not everything can be counted here, for: {missing}.")
    });
    assert!(text.lines().last().unwrap().starts_with(&expected), "{text}");
}

#[test]
fn releases_are_read_as_distributions_write_them() {
    assert_eq!(version("6.18.5-0-virt"), Some((6, 18)));
    assert_eq!(version("5.10"), Some((5, 10)));
    assert_eq!(version("weird"), None);
    assert!(version("5.4.0-1-amd64").unwrap() < OLDEST);
}

#[test]
fn hierarchies_of_v1_have_numbers() {
    assert!(!has_v1("0::/\n"));
    assert!(has_v1("4:memory:/\n1:name=systemd:/\n0::/\n"));
}
