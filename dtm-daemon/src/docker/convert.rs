//! From Docker's answers to what the tracker needs. Whatever is missing in an answer is missing, not an error,
//! except an id.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, EndpointSettings, EventActor, Network as NetworkAnswer,
    NetworkInspect,
};

use super::{Container, ContainerId, ContainerState, Endpoint, Network};

/// The option with which a bridge network is given a name for its bridge.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// Attributes of a container's events that are not its labels.
const OWN_ATTRIBUTES: [&str; 6] = ["name", "image", "exitCode", "signal", "oldName", "execDuration"];

/// A container of the list.
pub(super) fn listed(summary: ContainerSummary) -> Option<Container> {
    let ContainerSummary {
        id,
        names,
        image,
        labels,
        state,
        host_config,
        network_settings,
        ..
    } = summary;
    // A linked container has further names below those of others; its own has one slash.
    let name = names.iter().flatten().find(|name| name.matches('/').count() <= 1);
    Some(Container {
        id: ContainerId::parse(&id?)?,
        name: name.map_or("", |name| name.trim_start_matches('/')).into(),
        image: image.unwrap_or_default().into(),
        labels: labels.into_iter().flatten().collect(),
        network_mode: host_config
            .and_then(|config| config.network_mode)
            .unwrap_or_default()
            .into(),
        state: state_of(state.map(|state| state.to_string()).as_deref()),
        started_at: None,
        endpoints: endpoints(network_settings.and_then(|settings| settings.networks)),
    })
}

/// A container that was inspected.
pub(super) fn inspected(answer: ContainerInspectResponse) -> Option<Container> {
    let ContainerInspectResponse {
        id,
        name,
        state,
        config,
        host_config,
        network_settings,
        ..
    } = answer;
    let (image, labels) = config.map_or((None, None), |config| (config.image, config.labels));
    let (status, started_at) = state.map_or((None, None), |state| (state.status, state.started_at));
    let state = state_of(status.map(|status| status.to_string()).as_deref());
    Some(Container {
        id: ContainerId::parse(&id?)?,
        name: name.as_deref().unwrap_or("").trim_start_matches('/').into(),
        image: image.unwrap_or_default().into(),
        labels: labels.into_iter().flatten().collect(),
        network_mode: host_config
            .and_then(|config| config.network_mode)
            .unwrap_or_default()
            .into(),
        state,
        started_at: started_at.as_deref().and_then(seconds),
        endpoints: endpoints(network_settings.and_then(|settings| settings.networks)),
    })
}

/// A container as an event tells of it: its labels are among the attributes.
pub(super) fn announced(actor: &EventActor, state: ContainerState) -> Option<Container> {
    let attributes = actor.attributes.iter().flatten();
    let attribute = |name: &str| {
        actor
            .attributes
            .as_ref()
            .and_then(|attributes| attributes.get(name))
    };
    let labels = attributes.filter(|(name, _value)| !OWN_ATTRIBUTES.contains(&name.as_str()));
    Some(Container {
        id: ContainerId::parse(actor.id.as_deref()?)?,
        name: attribute("name")
            .map_or("", String::as_str)
            .trim_start_matches('/')
            .into(),
        image: attribute("image").map_or("", String::as_str).into(),
        labels: labels
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        network_mode: "".into(),
        state,
        started_at: None,
        endpoints: Vec::new(),
    })
}

/// A network of the list.
pub(super) fn listed_network(answer: NetworkAnswer) -> Option<Network> {
    network(answer.id, answer.name, answer.driver, answer.options)
}

/// A network that was inspected.
pub(super) fn inspected_network(answer: NetworkInspect) -> Option<Network> {
    network(answer.id, answer.name, answer.driver, answer.options)
}

fn network(
    id: Option<String>,
    name: Option<String>,
    driver: Option<String>,
    options: Option<HashMap<String, String>>,
) -> Option<Network> {
    let (id, driver) = (id?, driver.unwrap_or_default());
    let bridge = (driver == "bridge").then(|| {
        let named = options.and_then(|mut options| options.remove(BRIDGE_NAME));
        named
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("br-{}", id.get(..12).unwrap_or(&id)))
    });
    Some(Network {
        name: name.unwrap_or_default().into(),
        driver: driver.into(),
        bridge: bridge.map(Arc::from),
        id: id.into(),
    })
}

fn endpoints(networks: Option<HashMap<String, EndpointSettings>>) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = networks
        .into_iter()
        .flatten()
        .filter_map(|(network, settings)| {
            let EndpointSettings {
                network_id,
                mac_address,
                ip_address,
                global_ipv6_address,
                ..
            } = settings;
            let addresses = [ip_address, global_ipv6_address].into_iter().flatten();
            Some(Endpoint {
                network: network.into(),
                network_id: network_id.filter(|id| !id.is_empty())?.into(),
                mac: mac_address.as_deref().and_then(mac),
                addresses: addresses
                    .filter_map(|address| address.parse::<IpAddr>().ok())
                    .collect(),
            })
        })
        .collect();
    endpoints.sort_by(|one, other| one.network_id.cmp(&other.network_id));
    endpoints
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    octets?.try_into().ok()
}

fn state_of(status: Option<&str>) -> ContainerState {
    ContainerState::ALL
        .into_iter()
        .find(|state| Some(state.as_str()) == status)
        .unwrap_or(ContainerState::Created)
}

/// Seconds since the epoch of Docker's RFC 3339 times, which are in UTC; none for its zero time.
fn seconds(time: &str) -> Option<f64> {
    let time = time.strip_suffix('Z')?;
    let (date, clock) = time.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut clock = clock.splitn(3, ':');
    let (hours, minutes) = (
        clock.next()?.parse::<i64>().ok()?,
        clock.next()?.parse::<i64>().ok()?,
    );
    let seconds: f64 = clock.next()?.parse().ok()?;
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    let minutes = (days_since_epoch(year, month, day) * 24 + hours) * 60 + minutes;
    Some(minutes as f64 * 60.0 + seconds)
}

/// Days from 1970-01-01 in the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `days_from_civil`).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4e8f1b6f0e4d2c9a7b5c3d1e0f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c1d3e5f";

    #[test]
    fn a_listed_container_keeps_its_own_name_not_its_links() {
        let summary: ContainerSummary = serde_json::from_value(serde_json::json!({
            "Id": ID, "Names": ["/web/db", "/db"], "Image": "postgres:16", "State": "running",
            "Labels": {"com.docker.compose.project": "shop"},
            "HostConfig": {"NetworkMode": "front"},
            "NetworkSettings": {"Networks": {"front": {
                "NetworkID": "abc", "MacAddress": "02:42:ac:12:00:02", "IPAddress": "172.18.0.2",
                "GlobalIPv6Address": "fd00::2"}}},
        }))
        .unwrap();
        let container = listed(summary).unwrap();
        assert_eq!(
            (&*container.name, container.state),
            ("db", ContainerState::Running)
        );
        let [endpoint] = &container.endpoints[..] else {
            panic!("one endpoint")
        };
        assert_eq!(endpoint.mac, Some([2, 0x42, 0xac, 0x12, 0, 2]));
        assert_eq!(endpoint.addresses.len(), 2);
    }

    #[test]
    fn a_stopped_container_has_no_endpoint_to_be_found_by() {
        let none = endpoints(Some(HashMap::from([(
            "front".to_owned(),
            EndpointSettings {
                network_id: Some(String::new()),
                ..EndpointSettings::default()
            },
        )])));
        assert!(none.is_empty());
    }

    #[test]
    fn an_event_tells_name_image_and_labels() {
        let actor: EventActor = serde_json::from_value(serde_json::json!({
            "ID": ID, "Attributes": {"name": "web", "image": "nginx", "tier": "front"},
        }))
        .unwrap();
        let container = announced(&actor, ContainerState::Created).unwrap();
        assert_eq!((&*container.name, &*container.image), ("web", "nginx"));
        assert_eq!(
            container.labels,
            BTreeMap::from([("tier".to_owned(), "front".to_owned())])
        );
    }

    #[test]
    fn a_bridge_is_named_by_its_option_or_its_id() {
        let of = |driver: &str, options| {
            network(
                Some("0123456789abcdef".to_owned()),
                None,
                Some(driver.to_owned()),
                options,
            )
            .unwrap()
            .bridge
        };
        assert_eq!(of("bridge", None).as_deref(), Some("br-0123456789ab"));
        let named = HashMap::from([(BRIDGE_NAME.to_owned(), "docker0".to_owned())]);
        assert_eq!(of("bridge", Some(named)).as_deref(), Some("docker0"));
        assert_eq!(of("macvlan", None), None);
    }

    #[test]
    fn times_are_seconds_since_the_epoch() {
        assert_eq!(seconds("1970-01-01T00:00:01.5Z"), Some(1.5));
        assert_eq!(seconds("2024-02-29T12:00:00Z"), Some(1_709_208_000.0));
        assert_eq!(seconds("0001-01-01T00:00:00Z"), None);
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn a_bad_id_is_no_container() {
        let summary = ContainerSummary {
            id: Some("../../etc".to_owned()),
            ..ContainerSummary::default()
        };
        assert_eq!(listed(summary), None);
    }
}
