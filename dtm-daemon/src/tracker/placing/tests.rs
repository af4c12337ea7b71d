//! Every network mode, and what becomes of it.

use super::*;
use crate::docker::fixture::{self, id};

fn container(digit: char, mode: &str, networks: &[&str]) -> Arc<Container> {
    Arc::new(fixture::container(digit, mode, networks))
}

/// A network of each driver, called like it.
fn networks() -> HashMap<Arc<str>, Network> {
    let drivers = ["bridge", "overlay", "macvlan", "ipvlan", "host", "null", "weave"];
    let network = |driver| fixture::network(driver, driver, (driver == "bridge").then_some("docker0"));
    let network = |driver| (Arc::from(driver), network(driver));
    drivers.map(network).into()
}

/// Where one of `all` is counted: in the words of a test.
fn placed(all: &[Arc<Container>], digit: char) -> String {
    let find = |wanted: &ContainerId| all.iter().find(|container| container.id == *wanted);
    let networks = networks();
    match place(find(&id(digit)).unwrap(), &networks, find) {
        None => "unknown".to_owned(),
        Some(Place::Group) => "group".to_owned(),
        Some(Place::Under(other)) => format!("under {}", &other.short()[..1]),
        Some(Place::On(networks)) => {
            let hooks = networks
                .iter()
                .map(|network| hook(&network.driver).map_or("?".to_owned(), |hook| format!("{hook:?}")));
            hooks.collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn every_mode_has_its_place() {
    let joining = |digit: char| format!("container:{}", String::from(digit).repeat(64));
    let all = [
        container('0', "bridge", &["bridge"]),
        container('1', "host", &["host"]),
        container('2', "none", &["null"]),
        container('3', &joining('0'), &[]),
        container('4', &joining('1'), &[]),
        container('5', &joining('9'), &[]),
        container('6', "", &[]),
        container('7', "overlay", &["bridge", "macvlan", "overlay", "weave"]),
        // Taken off `none`, and put on another.
        container('8', "none", &["ipvlan"]),
        container('a', "gone", &["gone"]),
    ];
    for (digit, expected) in [
        ('0', "HostEnd"),
        ('1', "group"),
        ('2', ""),
        ('3', "under 0"),
        ('4', "group"),
        ('5', "unknown"),
        ('6', "unknown"),
        ('7', "HostEnd OwnDevice HostEnd ?"),
        ('8', "OwnDevice"),
        ('a', ""),
    ] {
        assert_eq!(placed(&all, digit), expected, "{digit}");
    }
}

/// What a host offers a container.
#[derive(Clone, Copy, Debug, Default)]
struct Offer<'a> {
    /// The networks on which it is counted.
    counted: &'a [&'a str],
    is_rootless: bool,
    is_elsewhere: bool,
}

impl Sight for Offer<'_> {
    fn is_rootless(&self) -> bool {
        self.is_rootless
    }

    fn has_bridge(&self, name: &str) -> bool {
        !self.is_elsewhere && name == "docker0"
    }

    fn group(&self) -> Option<&'static str> {
        (!self.counted.contains(&"host")).then_some("cgroup_not_found")
    }

    fn is_counted_on(&self, network: &Network) -> bool {
        self.counted.contains(&&*network.name)
    }
}

fn reasons(offer: Offer<'_>) -> [Option<&'static str>; 8] {
    let networks = networks();
    let on = |names: &[&str]| Place::On(names.iter().map(|name| &networks[*name]).collect());
    [
        on(&["bridge"]),
        on(&["overlay"]),
        on(&["macvlan"]),
        on(&["bridge", "ipvlan"]),
        on(&["weave"]),
        on(&[]),
        Place::Under(id('a')),
        Place::Group,
    ]
    .map(|place| uncovered(&place, &offer))
}

#[test]
fn what_is_not_counted_has_a_reason() {
    let expected = [
        // What is on a bridge that is here is seen before it is named.
        None,
        Some("overlay_network"),
        Some("macvlan_network"),
        Some("ipvlan_network"),
        Some("network_driver"),
        None,
        None,
        Some("cgroup_not_found"),
    ];
    assert_eq!(reasons(Offer::default()), expected);
}

#[test]
fn what_is_counted_has_none() {
    for offer in [(false, false), (false, true), (true, false)] {
        let (is_rootless, is_elsewhere) = offer;
        let counted = &["bridge", "overlay", "macvlan", "ipvlan", "weave", "host"];
        let offer = Offer {
            counted,
            is_rootless,
            is_elsewhere,
        };
        assert_eq!(reasons(offer), [None; 8], "{offer:?}");
    }
}

#[test]
fn bridges_of_another_namespace_are_missed() {
    let offer = Offer {
        is_elsewhere: true,
        ..Offer::default()
    };
    let [bridge, _, _, both, ..] = reasons(offer);
    assert_eq!([bridge, both], [Some("bridge_not_found"); 2]);
}

#[test]
fn of_a_rootless_engine_nothing_is_shown_that_is_not_counted() {
    let offer = Offer {
        is_rootless: true,
        ..Offer::default()
    };
    let all = Some("rootless_engine");
    assert_eq!(reasons(offer), [all, all, all, all, all, None, None, all]);
    let host = Offer {
        counted: &["host"],
        ..offer
    };
    assert_eq!(reasons(host), [all, all, all, all, all, None, None, None]);
}
