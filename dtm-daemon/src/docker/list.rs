//! Everything the engine has, even where a part of its answer makes no sense.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use bollard::{
    Docker,
    errors::Error,
    models::ContainerSummary,
    query_parameters::{ListContainersOptions, ListContainersOptionsBuilder},
};

use super::{Container, ContainerId, Network, connect::answered, convert};

/// Where a list with a container that cannot be understood is cut: by so many digits of the ids at most.
const LONGEST_PREFIX: usize = 4;

/// The most parts to ask for: four containers in four corners need a quarter of it.
const PARTS: usize = 1_024;

const DIGITS: &str = "0123456789abcdef";

/// All containers and networks.
pub(super) async fn list(docker: &Docker) -> anyhow::Result<(Vec<Container>, Vec<Network>)> {
    let containers = match containers(docker, None).await {
        Err(error) if is_nonsense(&error) => {
            tracing::warn!(%error, "docker's list of containers makes no sense, asking for it in parts");
            in_parts(|prefix| {
                let docker = docker.clone();
                async move { containers(&docker, Some(&format!("^{prefix}"))).await }
            })
            .await
        }
        whole => whole.context("list docker's containers"),
    };
    let networks = answered(docker.list_networks(None)).await;
    let networks = networks.context("list docker's networks")?;
    Ok((
        containers?.into_iter().filter_map(convert::listed).collect(),
        networks.into_iter().filter_map(convert::listed_network).collect(),
    ))
}

/// One container as the list has it; for where it cannot be inspected.
pub(super) async fn find(docker: &Docker, id: &ContainerId) -> Result<Option<Container>, Error> {
    let found = containers(docker, Some(&format!("^{}$", id.full()))).await?;
    Ok(found.into_iter().find_map(convert::listed))
}

async fn containers(docker: &Docker, id: Option<&str>) -> Result<Vec<ContainerSummary>, Error> {
    let options = ListContainersOptionsBuilder::default().all(true).build();
    let filters = id.map(|id| HashMap::from([("id".to_owned(), vec![id.to_owned()])]));
    answered(docker.list_containers(Some(ListContainersOptions { filters, ..options }))).await
}

/// Whether an answer came but is not what it should be: engines newer than this program have words it does not know.
pub(super) fn is_nonsense(error: &Error) -> bool {
    matches!(error, Error::JsonDataError { .. } | Error::JsonSerdeError { .. })
}

/// Asks for what begins with each digit, and cuts what makes no sense into smaller parts until little is left out.
async fn in_parts<T, P>(part: impl Fn(String) -> P) -> anyhow::Result<Vec<T>>
where
    P: Future<Output = Result<Vec<T>, Error>>,
{
    let below = |prefix: &str| {
        DIGITS
            .chars()
            .map(|digit| format!("{prefix}{digit}"))
            .collect::<Vec<_>>()
    };
    let (mut found, mut prefixes) = (Vec::new(), below(""));
    for _ in 0..PARTS {
        let Some(prefix) = prefixes.pop() else {
            return Ok(found);
        };
        match part(prefix.clone()).await {
            Ok(some) => found.extend(some),
            Err(error) if !is_nonsense(&error) => return Err(error).context("list docker's containers"),
            Err(_nonsense) if prefix.len() < LONGEST_PREFIX => prefixes.extend(below(&prefix)),
            Err(error) => {
                tracing::warn!(%error, id = prefix, "a container that cannot be understood is left out");
            }
        }
    }
    bail!("docker's list of containers makes no sense to this version of dtm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonsense() -> Error {
        Error::JsonDataError {
            message: "unknown variant".to_owned(),
            column: 1,
        }
    }

    /// What an engine with these ids answers, where those that begin with `bad` cannot be understood.
    async fn found(ids: &[&'static str], bad: &str) -> anyhow::Result<Vec<&'static str>> {
        let mut found = in_parts(|prefix| async move {
            let part: Vec<_> = ids.iter().copied().filter(|id| id.starts_with(&prefix)).collect();
            if part.iter().any(|id| id.starts_with(bad)) {
                return Err(nonsense());
            }
            Ok(part)
        })
        .await?;
        found.sort_unstable();
        Ok(found)
    }

    #[tokio::test]
    async fn one_bad_container_costs_only_its_nearest_neighbours() {
        let ids = ["0000a", "12345", "12346", "1235f", "ffff0"];
        assert_eq!(found(&ids, "12345").await.unwrap(), ["0000a", "1235f", "ffff0"]);
    }

    #[tokio::test]
    async fn a_list_of_nothing_but_nonsense_is_an_error() {
        let ids: Vec<&'static str> = vec!["0000", "1111", "2222", "3333", "4444", "5555", "6666", "7777"];
        assert!(
            found(&ids, "").await.is_ok(),
            "few bad containers are found out one by one"
        );
        let everywhere = in_parts(|_prefix| async { Err::<Vec<()>, _>(nonsense()) }).await;
        assert!(everywhere.unwrap_err().to_string().contains("makes no sense"));
    }

    #[tokio::test]
    async fn an_engine_that_goes_away_meanwhile_is_an_error() {
        let gone = in_parts(|_prefix| async { Err::<Vec<()>, _>(Error::RequestTimeoutError) }).await;
        assert!(gone.is_err());
    }
}
