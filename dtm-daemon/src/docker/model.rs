//! Docker's objects as the rest of the daemon sees them: what a series needs, and no more.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::About;

/// A container's full id: 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// Takes `id` if it is 64 lower-case hexadecimal digits.
    pub fn parse(id: &str) -> Option<Self> {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (id.len() == 64 && id.bytes().all(hexadecimal)).then(|| Self(Arc::from(id)))
    }

    /// All 64 digits.
    pub fn full(&self) -> &str {
        &self.0
    }

    /// The 12 digits Docker's own tools show, and the `container_id` label.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = &'static str;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::parse(&id).ok_or("a container's id has 64 hexadecimal digits")
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.short())
    }
}

/// A container as Docker describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// The full id.
    pub id: ContainerId,
    /// The name without Docker's leading slash.
    pub name: Arc<str>,
    /// The image as the user named it.
    pub image: Arc<str>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// `HostConfig.NetworkMode`: `bridge`, `host`, `none`, `container:<id>`, a network's name; empty while unknown.
    pub network_mode: Arc<str>,
    /// Where Docker says it is.
    pub state: ContainerState,
    /// When it last started, in seconds since the epoch; unknown until it was inspected.
    pub started_at: Option<f64>,
    /// Its endpoints, as Docker lists them; empty for a container that is not running.
    pub endpoints: Vec<Endpoint>,
}

/// `State.Status` of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Frozen; its interfaces are still there.
    Paused,
    /// Between two runs.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// Could not be removed.
    Dead,
}

impl Container {
    /// Whether it has a process, by Docker's word.
    pub fn has_process(&self) -> bool {
        matches!(
            self.state,
            ContainerState::Running | ContainerState::Paused | ContainerState::Restarting
        )
    }
}

impl ContainerState {
    /// Every state, in the order of Docker's documentation.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// Docker's own word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// A container's place on one Docker network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: Arc<str>,
    /// The network's id.
    pub network_id: Arc<str>,
    /// The hardware address Docker gave it.
    pub mac: Option<[u8; 6]>,
    /// The addresses Docker gave it.
    pub addresses: Vec<IpAddr>,
}

/// A Docker network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The full id.
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its driver: `bridge`, `overlay`, `macvlan`, `host`, `null`, …
    pub driver: Arc<str>,
    /// The Linux bridge it is on, for the bridge driver: `com.docker.network.bridge.name`, else `br-` and the first
    /// 12 digits of the id.
    pub bridge: Option<Arc<str>>,
    /// The prefixes its addresses are from; none while they are not known.
    #[serde(default)]
    pub subnets: Vec<Subnet>,
}

/// A prefix of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// An address in it.
    pub address: IpAddr,
    /// How many leading bits its addresses share.
    pub bits: u8,
}

impl FromStr for Subnet {
    type Err = ();

    /// Reads `172.17.0.0/16`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(drop)?;
        let bits: u8 = bits.parse().map_err(drop)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits > most {
            return Err(());
        }
        Ok(Self { address, bits })
    }
}

/// What the watcher tells the tracker, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum DockerUpdate {
    /// The engine answered: everything there is. Replaces what was known. Later updates build on it.
    Listed {
        /// Every container, stopped ones included.
        containers: Vec<Container>,
        /// Every network.
        networks: Vec<Network>,
        /// The engine's version.
        version: Arc<str>,
        /// Whether it is Podman, which tells of what happens up to a quarter of a second after it did.
        is_podman: bool,
    },
    /// How the engine that answered runs; said once for each connection, where it says that.
    About(About),
    /// A container was created, started, renamed, connected, disconnected, paused, …: this is it now.
    Container(Container),
    /// A container ended (`die`). Its details may no longer be asked for.
    Died(ContainerId),
    /// A container is gone for good (`destroy`).
    Destroyed(ContainerId),
    /// A network was created, or its details changed.
    Network(Network),
    /// A network is gone.
    NetworkRemoved(Arc<str>),
    /// The engine does not answer; the watcher keeps trying. The reason is for the log.
    Down(String),
}
