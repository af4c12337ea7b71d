//! One look at the engine, for who does not stay to watch.

use std::sync::Arc;

use super::{
    About, Container, Network,
    about::about,
    connect::{Engine, connect, reason},
    list::list,
};
use crate::config::DockerHost;

/// An engine and all it has, at one moment.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What the engine calls itself; empty where it does not say.
    pub name: String,
    /// Whether it is Podman, which only speaks as Docker does.
    pub is_podman: bool,
    /// What it calls its version.
    pub version: Arc<str>,
    /// The version of the API that both sides know.
    pub api_version: String,
    /// How it runs; none where it does not say.
    pub about: Option<About>,
    /// Every container, stopped ones included.
    pub containers: Vec<Arc<Container>>,
    /// Every network.
    pub networks: Vec<Network>,
}

/// Asks the engine for all there is.
///
/// # Errors
///
/// One line: what was tried, and what went wrong at the very bottom.
pub async fn survey(host: &DockerHost) -> Result<Survey, String> {
    let all = async {
        let engine = connect(host).await?;
        let (containers, networks) = list(&engine).await?;
        let about = about(&engine).await.ok();
        let Engine {
            docker,
            version,
            name,
            is_podman,
            ..
        } = engine;
        anyhow::Ok(Survey {
            name,
            is_podman,
            version,
            api_version: docker.client_version().to_string(),
            about,
            containers: containers.into_iter().map(Arc::new).collect(),
            networks,
        })
    };
    all.await.map_err(|error| reason(&error))
}
