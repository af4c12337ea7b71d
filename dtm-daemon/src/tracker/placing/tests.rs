//! Every network mode, and what becomes of it.

use std::collections::BTreeMap;

use super::*;
use crate::docker::{ContainerState, Endpoint};

fn id(digit: char) -> ContainerId {
    ContainerId::parse(&String::from(digit).repeat(64)).unwrap()
}

fn container(digit: char, mode: &str, networks: &[&str]) -> Arc<Container> {
    let endpoint = |network: &&str| Endpoint {
        network: Arc::from(*network),
        network_id: Arc::from(*network),
        mac: None,
        addresses: Vec::new(),
    };
    Arc::new(Container {
        id: id(digit),
        name: Arc::from(format!("name-{digit}")),
        image: Arc::from("image"),
        labels: BTreeMap::new(),
        network_mode: Arc::from(mode),
        state: ContainerState::Running,
        started_at: None,
        endpoints: networks.iter().map(endpoint).collect(),
    })
}

/// A network of each driver, called like it.
fn networks() -> HashMap<Arc<str>, Network> {
    let drivers = ["bridge", "overlay", "macvlan", "ipvlan", "host", "null", "weave"];
    let network = |driver: &str| Network {
        id: Arc::from(driver),
        name: Arc::from(driver),
        driver: Arc::from(driver),
        bridge: None,
    };
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

/// A host on which only these networks' containers are counted.
struct Only<'a>(&'a [&'a str]);

impl Sight for Only<'_> {
    fn group(&self) -> Option<&'static str> {
        (!self.0.contains(&"host")).then_some("cgroup_not_found")
    }

    fn is_counted_on(&self, network: &Network) -> bool {
        self.0.contains(&&*network.name)
    }
}

#[test]
fn what_is_not_counted_has_a_reason() {
    let networks = networks();
    let on = |names: &[&str]| Place::On(names.iter().map(|name| &networks[*name]).collect());
    for (place, counted, expected) in [
        (on(&["macvlan"]), &[][..], Some("macvlan_network")),
        (on(&["ipvlan"]), &[], Some("ipvlan_network")),
        (on(&["overlay"]), &[], Some("overlay_network")),
        (on(&["weave"]), &[], Some("network_driver")),
        (on(&["macvlan"]), &["macvlan"], None),
        (on(&["weave"]), &["weave"], None),
        (on(&["macvlan", "overlay"]), &["macvlan"], Some("overlay_network")),
        // What is on a bridge is seen before it is named.
        (on(&["bridge"]), &[], None),
        (on(&["bridge", "macvlan"]), &["bridge"], Some("macvlan_network")),
        (on(&[]), &[], None),
        (Place::Under(id('a')), &[], None),
        (Place::Group, &[], Some("cgroup_not_found")),
        (Place::Group, &["host"], None),
    ] {
        assert_eq!(
            uncovered(&place, &Only(counted)),
            expected,
            "{place:?} {counted:?}"
        );
    }
}
