//! From Docker's answers to what the tracker needs. Whatever is missing in an answer is missing, not an error,
//! except an id.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::UNIX_EPOCH};

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, EndpointSettings, Ipam, Network as NetworkAnswer,
    NetworkInspect,
};

use super::{Container, ContainerId, ContainerState, Endpoint, Network, Subnet};

/// The option with which a bridge network is given a name for its bridge.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

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
    let name = names
        .iter()
        .flatten()
        .find(|name| !name.trim_start_matches('/').contains('/'));
    let endpoints = endpoints(network_settings.and_then(|settings| settings.networks));
    let state = state.map(|state| state.to_string()).unwrap_or_default();
    Some(Container {
        id: ContainerId::parse(&id?)?,
        name: without_slash(name.map_or("", String::as_str)),
        image: image.unwrap_or_default().into(),
        labels: labels.into_iter().flatten().collect(),
        network_mode: network_mode(host_config.and_then(|config| config.network_mode).as_deref()),
        state: state_of(&state, &endpoints),
        started_at: None,
        endpoints,
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
    let endpoints = endpoints(network_settings.and_then(|settings| settings.networks));
    let status = status.map(|status| status.to_string()).unwrap_or_default();
    Some(Container {
        id: ContainerId::parse(&id?)?,
        name: without_slash(name.as_deref().unwrap_or_default()),
        image: image.unwrap_or_default().into(),
        labels: labels.into_iter().flatten().collect(),
        network_mode: network_mode(host_config.and_then(|config| config.network_mode).as_deref()),
        state: state_of(&status, &endpoints),
        started_at: started_at.as_deref().and_then(seconds),
        endpoints,
    })
}

/// A container as its first event tells of it: the attributes are its labels, and `name` and `image`.
pub(super) fn announced(id: ContainerId, attributes: &HashMap<String, String>) -> Container {
    let attribute = |name: &str| attributes.get(name).map_or("", String::as_str);
    let labels = attributes
        .iter()
        .filter(|(name, _value)| !["name", "image"].contains(&name.as_str()));
    Container {
        id,
        name: without_slash(attribute("name")),
        image: attribute("image").into(),
        labels: labels
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        network_mode: "".into(),
        state: ContainerState::Created,
        started_at: None,
        endpoints: Vec::new(),
    }
}

/// A network as its first event tells of it, on the bridge it has unless the user named another.
pub(super) fn announced_network(id: &str, attributes: &HashMap<String, String>) -> Option<Network> {
    let attribute = |name: &str| attributes.get(name).cloned();
    network(id.to_owned(), attribute("name"), attribute("type"), None, None)
}

/// A container's name without the slash Docker keeps before it.
pub(super) fn without_slash(name: &str) -> Arc<str> {
    name.trim_start_matches('/').into()
}

/// A network of the list.
pub(super) fn listed_network(answer: NetworkAnswer) -> Option<Network> {
    network(
        answer.id?,
        answer.name,
        answer.driver,
        answer.options,
        answer.ipam,
    )
}

/// A network that was inspected.
pub(super) fn inspected_network(answer: NetworkInspect) -> Option<Network> {
    network(
        answer.id?,
        answer.name,
        answer.driver,
        answer.options,
        answer.ipam,
    )
}

fn network(
    id: String,
    name: Option<String>,
    driver: Option<String>,
    options: Option<HashMap<String, String>>,
    ipam: Option<Ipam>,
) -> Option<Network> {
    if id.is_empty() {
        return None;
    }
    let driver = driver.unwrap_or_default();
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
        subnets: subnets(ipam),
    })
}

/// A prefix that makes no sense is left out.
fn subnets(ipam: Option<Ipam>) -> Vec<Subnet> {
    let configurations = ipam.and_then(|ipam| ipam.config).into_iter().flatten();
    configurations
        .filter_map(|configuration| configuration.subnet?.parse().ok())
        .collect()
}

/// `default` is what older clients call the default bridge.
fn network_mode(mode: Option<&str>) -> Arc<str> {
    match mode {
        Some("default") => "bridge".into(),
        mode => mode.unwrap_or_default().into(),
    }
}

fn endpoints(networks: Option<HashMap<String, EndpointSettings>>) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = networks
        .into_iter()
        .flatten()
        .filter_map(|(network, settings)| endpoint(network, settings))
        .collect();
    endpoints.sort_by(|one, other| one.network.cmp(&other.network));
    endpoints
}

/// None for a network that the container will be on once it runs.
fn endpoint(network: String, settings: EndpointSettings) -> Option<Endpoint> {
    let EndpointSettings {
        network_id,
        endpoint_id,
        mac_address,
        ip_address,
        global_ipv6_address,
        ..
    } = settings;
    let mac = mac_address.as_deref().and_then(mac);
    let addresses: Vec<IpAddr> = [ip_address, global_ipv6_address]
        .into_iter()
        .flatten()
        .filter_map(|address| address.parse().ok())
        .collect();
    let is_there = endpoint_id.is_some_and(|id| !id.is_empty()) || mac.is_some() || !addresses.is_empty();
    let network_id = network_id.filter(|id| is_there && !id.is_empty())?;
    Some(Endpoint {
        network: network.into(),
        network_id: network_id.into(),
        mac,
        addresses,
    })
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    octets?.try_into().ok()
}

fn state_of(status: &str, endpoints: &[Endpoint]) -> ContainerState {
    let known = ContainerState::ALL
        .into_iter()
        .find(|state| state.as_str() == status);
    known.unwrap_or(match status {
        // Podman's word while its processes are being ended.
        "stopping" => ContainerState::Running,
        // A word of the future: what is on a network has a process.
        _ if !endpoints.is_empty() => ContainerState::Running,
        _ => ContainerState::Created,
    })
}

/// Seconds since the epoch of an RFC 3339 time; none for Docker's year 1, which is never.
fn seconds(time: &str) -> Option<f64> {
    // Docker's are in UTC, Podman's in its own time zone.
    let (time, offset) = match time.get(time.len().checked_sub(6)?..)?.split_at_checked(1)? {
        ("+", offset) => (&time[..time.len() - 6], zone(offset)?),
        ("-", offset) => (&time[..time.len() - 6], -zone(offset)?),
        _ => (time, 0.0),
    };
    let utc = humantime::parse_rfc3339(&format!("{}Z", time.trim_end_matches('Z'))).ok()?;
    let since_epoch = utc.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(since_epoch - offset)
}

/// Seconds of `hh:mm`.
fn zone(offset: &str) -> Option<f64> {
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    Some(f64::from(hours * 3_600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4e8f1b6f0e4d2c9a7b5c3d1e0f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c1d3e5f";

    fn summary(json: serde_json::Value) -> ContainerSummary {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_listed_container_keeps_its_own_name_not_its_links() {
        let names = serde_json::json!({"Id": ID, "Names": ["/web/db", "/db"]});
        assert_eq!(&*listed(summary(names)).unwrap().name, "db");
    }

    #[test]
    fn only_an_id_is_indispensable() {
        assert!(listed(summary(serde_json::json!({"Id": ID}))).is_some());
        assert!(listed(summary(serde_json::json!({"Id": "../../etc", "Names": ["/web"]}))).is_none());
        assert!(inspected(ContainerInspectResponse::default()).is_none());
        assert!(inspected_network(NetworkInspect::default()).is_none());
    }

    #[test]
    fn a_container_that_does_not_run_is_on_no_network() {
        let stopped = EndpointSettings {
            network_id: Some("abc".to_owned()),
            endpoint_id: Some(String::new()),
            ip_address: Some(String::new()),
            mac_address: Some(String::new()),
            ..EndpointSettings::default()
        };
        assert_eq!(endpoint("front".to_owned(), stopped), None);
    }

    #[test]
    fn nonsense_in_an_endpoint_is_left_out() {
        let strange = EndpointSettings {
            network_id: Some("abc".to_owned()),
            endpoint_id: Some("def".to_owned()),
            ip_address: Some("10.0.0.256".to_owned()),
            mac_address: Some("02:42:ac:12:00:zz".to_owned()),
            ..EndpointSettings::default()
        };
        let endpoint = endpoint("front".to_owned(), strange).unwrap();
        assert_eq!((endpoint.mac, endpoint.addresses), (None, Vec::new()));
    }

    #[test]
    fn a_short_network_id_still_makes_a_bridge_name() {
        let network = network("é".to_owned(), None, Some("bridge".to_owned()), None, None).unwrap();
        assert_eq!(network.bridge.as_deref(), Some("br-é"));
    }

    #[test]
    fn every_state_is_understood() {
        for state in ContainerState::ALL {
            assert_eq!(state_of(state.as_str(), &[]), state);
        }
        assert_eq!(state_of("stopping", &[]), ContainerState::Running);
        assert_eq!(state_of("initialized", &[]), ContainerState::Created);
        let endpoint = Endpoint {
            network: "front".into(),
            network_id: "abc".into(),
            mac: None,
            addresses: Vec::new(),
        };
        assert_eq!(state_of("hibernating", &[endpoint]), ContainerState::Running);
    }

    #[test]
    fn times_are_seconds_since_the_epoch() {
        for (time, expected) in [
            ("1970-01-01T00:00:01.5Z", Some(1.5)),
            ("2024-02-29T12:00:00Z", Some(1_709_208_000.0)),
            ("2024-02-29T14:00:00.25+02:00", Some(1_709_208_000.25)),
            ("2024-02-29T08:30:00-03:30", Some(1_709_208_000.0)),
            ("0001-01-01T00:00:00Z", None),
            ("2024-02-29", None),
            ("12:00", None),
            ("é-é-é", None),
            ("", None),
        ] {
            assert_eq!(seconds(time), expected, "{time}");
        }
    }
}
